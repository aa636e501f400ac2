"""What Typer has to say about a wrong command line, as one sentence that names the value."""

from typing import Any

from typer.exceptions import TyperException

LONGEST_VALUE = 60


def describe(error: TyperException) -> str:
    """The error as one line: which option, which value, what would be right."""
    details: Any = getattr(error.__cause__, "errors", None)  # pydantic's, when a value has the wrong type
    if details is None:
        context: Any = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        return _lowered(error.format_message()) + hint
    detail = details()[0]
    value, wrong = str(detail["input"]), str(detail["msg"])
    param: Any = getattr(error, "param", None)
    option = param.opts[0] if param is not None else "a value"
    if len(value) > LONGEST_VALUE:
        value = f"{value[:LONGEST_VALUE]}..."
    wrong = wrong.removeprefix("Value error, ").replace("Input should", "it should")
    return f"{option} '{value}': {_lowered(wrong)}"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
