"""Variants: presets with some fields changed, written as `ultra+embedding_rank=8+dtype=bf16`.

A field is one of a `ModelConfig`, the sizes left out, or one of a preset's that go to the case. `none` takes a value
away, and a rank may be a share of the width as the presets have them: `d/64`, `3d/2`, `d/64min8` (at least
8), `d/5x32` (rounded down to a multiple of 32).
"""

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Mapping
from typing import Any

from muse_bench.choices import literal_words
from muse_bench.config import ModelConfig
from muse_bench.errors import UsageError
from muse_bench.models.presets import Preset, Share, find_preset

CASE_FIELDS = ("dtype", "optimizer", "update", "execution", "micro_batch")
SIZES = ("vocab_size", "d_model", "n_layers", "max_seq_len")
BOOLEANS = {"true": True, "false": False}
MOST_DIGITS = 18
# Fields that say where things lie and when they are computed: whatever they are, a model learns the same.
SAME_LEARNING = (
    *("loss", "checkpointing", "checkpoint_parts", "offload", "weights"),
    *("execution", "prefill_chunk", "int8_inference"),
)


def find_model(name: str) -> Preset:
    """The preset that a name means, with the changes behind it; of two changes of a field the last one counts.

    Raises: UsageError for an unknown preset or field, and for what is no value of its field.
    """
    preset, *changes = name.split("+")
    return _changed(find_preset(preset.strip()), dict(map(_change, changes)))


def changed_name(name: str, changes: Mapping[str, Any]) -> str:
    """The name of the model with these fields changed."""
    return "+".join((name, *(f"{field}={value_text(value)}" for field, value in changes.items())))


def difference(before: Preset, after: Preset) -> dict[str, Any]:
    """The fields in which two presets differ, each with the value that it has after."""
    values = {field: (_setting(before, field), _setting(after, field)) for field in _kinds()}
    return {field: new for field, (old, new) in values.items() if old != new}


def learns_as(name: str) -> str:
    """A name for all models that learn what this one learns: the same one, whatever saves memory without a trace."""
    if ":" in name:
        return name
    changes = difference(find_preset("baseline"), find_model(name))
    return changed_name("", {field: value for field, value in changes.items() if field not in SAME_LEARNING})


def value_text(value: Any) -> str:
    """A value as it stands in a name."""
    if isinstance(value, Share):
        multiple = f"x{value.multiple}" if value.multiple > 1 else ""
        times = "" if value.times == 1 else value.times
        return f"{times}d/{value.divisor}{multiple}" + (f"min{value.minimum}" if value.minimum > 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@functools.cache
def _kinds() -> dict[str, tuple[Any, ...]]:
    """Every field that may change, with the types that its value may be of."""
    parts, preset = typing.get_type_hints(ModelConfig), typing.get_type_hints(Preset)
    hints = {field: hint for field, hint in parts.items() if field not in SIZES}
    hints |= {field: preset[field] for field in CASE_FIELDS}
    hints["n_heads"] |= None  # without a value of the preset's own, an option says how many
    return {field: _alternatives(hint) for field, hint in hints.items()}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return (hint,) if typing.get_origin(hint) is typing.Literal else typing.get_args(hint) or (hint,)


def _changed(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    parts = {**preset.parts, **{field: value for field, value in changes.items() if field not in CASE_FIELDS}}
    own = {field: value for field, value in changes.items() if field in CASE_FIELDS}
    return dataclasses.replace(preset, parts={field: v for field, v in parts.items() if v is not None}, **own)


def _setting(preset: Preset, field: str) -> Any:
    if field in CASE_FIELDS:
        return getattr(preset, field)
    default = next(known.default for known in dataclasses.fields(ModelConfig) if known.name == field)
    return preset.parts.get(field, None if default is dataclasses.MISSING else default)


def _change(text: str) -> tuple[str, Any]:
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"'{text}' changes nothing: write field=value behind a preset, such as ultra+embedding_rank=8")
    if field not in _kinds():
        close = difflib.get_close_matches(field, _kinds(), n=2) or list(_kinds())
        raise UsageError(f"unknown field '{field}': choose from {', '.join(close)}")
    return field, _value(field, value)


def _value(field: str, text: str) -> Any:
    kinds = _kinds()[field]
    if text in (word for kind in kinds for word in literal_words(kind)):
        return text
    if type(None) in kinds and text == "none":
        return None
    if bool in kinds and text in BOOLEANS:
        return BOOLEANS[text]
    number: float | Share | None = _number(text, shares=field not in CASE_FIELDS) if int in kinds else None
    if float in kinds and re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text, re.ASCII):
        number = float(text)
    if number is None:
        raise UsageError(f"{field} '{text}' is not a value of it: use {_expected(field)}")
    return number


def _number(text: str, *, shares: bool) -> int | Share | None:
    if re.fullmatch(rf"\d{{1,{MOST_DIGITS}}}", text, re.ASCII):
        return int(text)
    share = re.fullmatch(r"([1-9]\d{0,8})?d/([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?(?:min([1-9]\d{0,8}))?", text, re.ASCII)
    if share is None or not shares:
        return None
    times, divisor, multiple, minimum = (int(part or 1) for part in share.groups())
    return Share(divisor, minimum, multiple, times)


def _expected(field: str) -> str:
    kinds = _kinds()[field]
    words = [word for kind in kinds for word in literal_words(kind)]
    words += BOOLEANS if bool in kinds else []
    words += ["a whole number"] if int in kinds else ["a number of at least 0"] if float in kinds else []
    words += ["a share of the width such as d/64"] if int in kinds and field not in CASE_FIELDS else []
    words += ["none"] if type(None) in kinds else []
    return " or ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
