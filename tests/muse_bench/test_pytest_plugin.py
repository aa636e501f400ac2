"""The plugin in projects of their own: what passes, what fails, and what a failure says."""

import subprocess
import sys

import pytest

import muse_bench

pytest_plugins = ["pytester"]

MODELS = """
    import pytest
    from torch import nn

    class Tower(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    class Model(nn.Module):
        def __init__(self, width=512):
            super().__init__()
            self.table = nn.Embedding(1000, width)
            self.tower = Tower(width)
            self.head = nn.Linear(width, 1000)

        def forward(self, ids):
            return self.head(self.tower(self.table(ids)))

    SIZES = {"vocab": 1000, "seq": 64}
"""


@pytest.fixture(autouse=True, scope="module")
def imported():
    """All that a prediction imports: pytester drops what a project's tests import, and torch stands no second time."""
    nn = pytest.importorskip("torch.nn")
    muse_bench.predict(lambda: nn.Embedding(8, 8), vocab=8, seq=8)


@pytest.fixture
def project(pytester, monkeypatch):
    """Runs a project whose tests are MODELS and what is given; `settings` are its [tool.muse-bench]."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(body, *arguments, settings=""):
        pytester.makepyprojecttoml(
            "[tool.pytest.ini_options]\n" + (f"[tool.muse-bench]\n{settings}" if settings else "")
        )
        pytester.makepyfile(test_it=MODELS + body)
        # Where the package is installed, with its entry point, the plugin loads by itself.
        installed = pytester._request.config.pluginmanager.has_plugin("muse-bench")
        given = () if installed else ("-p", "muse_bench.pytest_plugin")
        return pytester.runpytest_inprocess(*given, "--strict-markers", "-p", "no:cacheprovider", *arguments)

    return run


def test_a_model_within_the_limit_passes_and_its_record_is_the_predictions(project):
    result = project(
        """
    import muse_bench

    @pytest.mark.limit_vram("1 GiB", gpu="rtx-3080")
    def test_fits(vram):
        record = vram(Model(), **SIZES)
        assert record == muse_bench.predict(Model(), gpu="rtx-3080", **SIZES)
        assert (record.provenance, record.gpu) == ("predicted", "NVIDIA GeForce RTX 3080")
    """,
        "--vram-backend",
        "predict",
    )
    result.assert_outcomes(passed=1)


def test_a_failure_names_the_largest_with_module_category_and_line(project, pytester):
    result = project(
        """
    @pytest.mark.limit_vram("100 MiB", gpu="rtx-4060")
    def test_too_much(vram):
        vram(Model(), **SIZES)
        vram(Model(width=64), **SIZES)
    """,
        "--vram-backend=predict",
    )
    result.assert_outcomes(failed=1)  # and no error: it is the test that fails, not its teardown
    result.stdout.re_match_lines(
        [r".*test_it:Model on NVIDIA GeForce RTX 4060 \(predicted\) needs \d+\.\d MiB: .*limit of 100\.0 MiB"]
    )
    shown = result.stdout.str()
    lines = (pytester.path / "test_it.py").read_text().splitlines()
    tower, model = (
        next(n for n, line in enumerate(lines, 1) if f"class {name}(" in line) for name in ("Tower", "Model")
    )
    rows = shown.partition("What holds the most at the peak, MiB:\n")[2].partition("\n=")[0].splitlines()
    rows = [row for row in rows if row[:10].strip().replace(".", "").isdigit()]
    assert len(rows) == 10
    state = next(row for row in rows if "optimizer state" in row and "tower.blocks.0-2" in row)
    assert state.split()[0] == "6.0"  # 2 x 3 x 512 x 512 floats, and the biases below a tenth of a MiB
    assert f"test_it.py:{tower}" in state
    assert f"test_it.py:{model}" in next(row for row in rows if "table" in row)
    sizes = [float(row.split()[0]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_the_largest_of_several_records_decides(project):
    """Neither the last one nor the first."""
    body = """
    @pytest.mark.limit_vram("{size}")
    def test_several(vram):
        found = [vram(Model(width), **SIZES).device_peak_bytes for width in (64, 512, 64)]
        assert found[1] > 230 << 20 > found[0]
    """
    project(body.format(size="230 MiB"), "--vram-backend=predict").assert_outcomes(failed=1)
    project(body.format(size="900 MiB"), "--vram-backend=predict").assert_outcomes(passed=1)


def test_a_test_that_fails_by_itself_keeps_its_own_failure(project):
    result = project(
        """
    @pytest.mark.limit_vram("1 MiB")
    def test_wrong(vram):
        vram(Model(), **SIZES)
        assert 1 == 2
    """,
        "--vram-backend=predict",
    )
    result.assert_outcomes(failed=1)
    assert "limit of" not in result.stdout.str()


def test_a_mark_that_looks_at_nothing_fails(project):
    result = project('\n    @pytest.mark.limit_vram("1 GiB")\n    def test_nothing():\n        pass\n')
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*call vram(model) in the test*"])


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ('"6 GB"', "'6 GB' is not a size"),
        ("", "limit_vram takes a size"),
        ('"6 GiB", card="x"', "limit_vram takes a size"),
        ('"6 GiB", headroom="200%"', "'200%' is not a share"),
        ('"6 GiB", gpu="rtx-1"', "rtx-1"),
    ],
)
def test_a_wrong_mark_is_told(project, mark, said):
    body = f"\n    @pytest.mark.limit_vram({mark})\n    def test_it(vram):\n        vram(Model(), **SIZES)\n"
    result = project(body, "--vram-backend=predict")
    assert result.ret == 1
    assert said in result.stdout.str()


def test_defaults_come_from_the_projects_file(project):
    body = """
    @pytest.mark.limit_vram("{size}")
    def test_it(vram):
        assert vram(Model(), **SIZES).gpu == "NVIDIA GeForce RTX 3080"
    """
    settings = 'gpu = "rtx-3080"\nbackend = "predict"\nheadroom = "99%"\n'
    project(body.format(size="100 GiB"), settings=settings).assert_outcomes(passed=1)
    result = project(body.format(size="10 GiB"), settings=settings)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*limit of 102.4 MiB, 10.00 GiB less 99%*"])


@pytest.mark.parametrize(
    ("settings", "said"), [('gqu = "x"', "has no 'gqu'"), ('backend = "rocm"', "'rocm' is unknown")]
)
def test_a_wrong_setting_is_told(project, settings, said):
    result = project("\n    def test_it(vram):\n        pass\n", settings=settings)
    assert said in result.stdout.str()
    result.assert_outcomes(errors=1)


def test_a_factory_by_name_is_predicted_in_a_process_of_its_own(project):
    result = project(
        """
    @pytest.mark.limit_vram("8 GiB")
    def test_named(vram):
        assert vram("ultra", seq=32, layers=1, vocab=300, d_model=64, heads=2).model == "ultra"
    """,
        "--vram-backend=predict",
    )
    result.assert_outcomes(passed=1)


def test_the_plugin_imports_no_torch(tmp_path):
    """pytest starts as fast with it as without."""
    code = "import sys, muse_bench.pytest_plugin; print([n for n in ('torch', 'pandas', 'typer') if n in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
