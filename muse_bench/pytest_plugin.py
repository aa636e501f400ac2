"""The pytest plugin: a test fails when what it predicts, or measures, needs more GPU memory than its mark allows.

Imports no torch, and nothing of muse-bench, before a test asks for the fixture.
"""

import tomllib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import pytest

if TYPE_CHECKING:
    from muse_bench.api import Options
    from muse_bench.models.given import Given
    from muse_bench.record import Record

MARKER = "limit_vram(size, *, gpu, headroom): fail when what the fixture `vram` finds needs more memory of the device"
SETTINGS = ("backend", "gpu", "headroom")
BACKENDS = ("auto", "cuda", "predict")
CONTRIBUTORS = 10
KEY = pytest.StashKey["Vram"]()


class Limit(NamedTuple):
    """What a mark allows."""

    size_bytes: int
    gpu: str | None
    headroom: float


@dataclass
class Vram:
    """The fixture: predicts a model, or measures it where there is a GPU, and keeps what it found for the mark."""

    backend: Any
    gpu: str | None
    found: "list[Record]" = field(default_factory=list)

    def __call__(self, model: "str | Given", **options: "Unpack[Options]") -> "Record":
        """The model's record, by `muse_bench.predict` or `measure`, whose arguments it takes.

        Fails the test when the record has no peak, such as for a model that ran out of memory.
        """
        from muse_bench.api import find

        record = find(model, self.backend, self.gpu, options)
        if record.status != "ok":
            pytest.fail(f"{record.model}: {record.status}: {record.reason}", pytrace=False)
        self.found.append(record)
        return record


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vram-backend`."""
    parser.getgroup("muse-bench").addoption(
        "--vram-backend",
        choices=BACKENDS,
        help="measure with cuda, predict without, or auto: measure where there is a GPU "
        "(default: [tool.muse-bench] backend, or auto)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the mark known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def vram(request: pytest.FixtureRequest) -> Vram:
    """Predicts a model's GPU memory, or measures it: `record = vram(model, batch=4)`."""
    settings = _settings(request.config)
    backend = request.config.getoption("vram_backend") or settings.get("backend", "auto")
    limit = _limit(request.node, settings)
    made = request.node.stash[KEY] = Vram(backend, (limit and limit.gpu) or settings.get("gpu"))
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """After the test's own body, holds the largest of its records against the mark."""
    result = yield
    if item.get_closest_marker("limit_vram") is not None:
        limit = _limit(item, _settings(item.config))
        assert limit is not None
        found = item.stash[KEY].found if KEY in item.stash else []
        if not found:
            pytest.fail("limit_vram looks at what the fixture vram finds: call vram(model) in the test", pytrace=False)
        record = max(found, key=_device_bytes)
        if _device_bytes(record) > limit.size_bytes * (1 - limit.headroom):
            pytest.fail(_explanation(record, limit), pytrace=False)
    return result


def _device_bytes(record: "Record") -> int:
    """What the whole device needs; where that could not be had, what the allocator holds of it."""
    return record.device_peak_bytes or record.peak_reserved_bytes or 0


def _explanation(record: "Record", limit: Limit) -> str:
    """The limit and by how much it is passed, then who holds the most at the peak of allocation, and where that is."""
    from muse_bench.analysis.modules import largest_contributors
    from muse_bench.units import format_bytes, format_mib

    needed, allowed = _device_bytes(record), int(limit.size_bytes * (1 - limit.headroom))
    whose = f"{record.model} on {record.gpu} ({record.provenance})"
    headroom = f", {format_bytes(limit.size_bytes)} less {limit.headroom:.0%}" if limit.headroom else ""
    over = f"{format_bytes(needed - allowed)} more than the limit of {format_bytes(allowed)}{headroom}"
    lines = [f"{whose} needs {format_bytes(needed)}: {over}", "", "What holds the most at the peak, MiB:"]
    for one in largest_contributors(record, CONTRIBUTORS):
        category = one.category.replace("_", " ")
        lines.append(f"{format_mib(one.held_bytes):>10}  {category:<21}  {one.module}  {one.source or ''}".rstrip())
    return "\n".join(lines)


def _limit(item: pytest.Item, settings: dict[str, str]) -> Limit | None:
    """The mark's limit. Fails the test for a mark that is not right."""
    mark = item.get_closest_marker("limit_vram")
    if mark is None:
        return None
    from muse_bench.errors import UsageError
    from muse_bench.units import parse_bytes, parse_percent

    unknown = sorted(set(mark.kwargs) - {"gpu", "headroom"})
    if len(mark.args) != 1 or unknown:
        pytest.fail(f"limit_vram takes a size, gpu and headroom: limit_vram('6 GiB', gpu='rtx-4060'), not {mark}")
    try:
        size = parse_bytes(str(mark.args[0]))
        headroom = parse_percent(str(mark.kwargs.get("headroom", settings.get("headroom", "0%"))))
    except UsageError as error:
        pytest.fail(f"limit_vram: {error}", pytrace=False)
    return Limit(size, mark.kwargs.get("gpu"), headroom)


def _settings(config: pytest.Config) -> dict[str, str]:
    """[tool.muse-bench] of the pyproject.toml in pytest's rootdir. Raises: pytest.UsageError for a wrong one."""
    path = config.rootpath / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("muse-bench", {})
    except tomllib.TOMLDecodeError as error:
        raise pytest.UsageError(f"{path}: {error}") from error
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise pytest.UsageError(f"{path}: [tool.muse-bench] has no '{unknown[0]}': choose from {', '.join(SETTINGS)}")
    if settings.get("backend", "auto") not in BACKENDS:
        raise pytest.UsageError(
            f"{path}: backend '{settings['backend']}' is unknown: choose from {', '.join(BACKENDS)}"
        )
    return {name: str(value) for name, value in settings.items()}
