"""The command line: each command parses, calls and shows; here errors become one line and an exit code.

To add a command, write its file and add its line to `COMMANDS`.
"""

import errno
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

import muse_bench
from muse_bench.cli import console
from muse_bench.cli.ablate import ablate
from muse_bench.cli.accuracy import accuracy
from muse_bench.cli.calibrate import calibrate
from muse_bench.cli.check import check
from muse_bench.cli.claims import claims
from muse_bench.cli.compare import compare
from muse_bench.cli.diff import diff
from muse_bench.cli.doctor import doctor
from muse_bench.cli.floor import floor
from muse_bench.cli.frontier import frontier
from muse_bench.cli.groups import flattened
from muse_bench.cli.kernels import kernels
from muse_bench.cli.measure import measure
from muse_bench.cli.predict import predict
from muse_bench.cli.quality import quality
from muse_bench.cli.ranks import ranks
from muse_bench.cli.report import report
from muse_bench.cli.signals import stopping
from muse_bench.cli.sweep import sweep
from muse_bench.cli.usage import describe
from muse_bench.cli.verify_8gb import verify_8gb
from muse_bench.errors import ExitCode, MuseBenchError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # what a stream may say of its disk
COMMANDS = (
    compare,
    verify_8gb,
    ablate,
    ranks,
    frontier,
    floor,
    sweep,
    claims,
    measure,
    predict,
    report,
    check,
    diff,
    accuracy,
    calibrate,
    kernels,
    quality,
    doctor,
)

app = typer.Typer(name="muse-bench", pretty_exceptions_enable=False, rich_markup_mode="rich")
for _command in COMMANDS:
    app.command()(flattened(_command))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> int:
    """Measure, explain, predict and shrink the GPU memory of language models.

    \b
    Examples:
      muse-bench compare --vocab 50000 --d-model 1024
      muse-bench verify-8gb
      muse-bench predict ultra --gpu rtx-3080

    \b
    Exit codes: 0 fine or PASS, 1 FAIL, 2 wrong usage, 3 INCONCLUSIVE,
    4 a case ran out of memory or crashed, 130 interrupted, 141 nobody reads
    what is printed, 143 terminated.
    """
    if version:
        typer.echo(f"muse-bench {muse_bench.__version__}")
        raise typer.Exit(ExitCode.OK)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)
    return ExitCode.OK


def main() -> int:
    """Runs the command line; returns its exit code. A problem that the user can mend is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows '?' for it
    try:
        with stopping():
            code = int(app(prog_name="muse-bench", standalone_mode=False))
            sys.stdout.flush()  # here, where it can be told that it cannot
            return code
    except MuseBenchError as error:
        console.complain(f"error: {error}")
        return error.exit_code
    except TyperException as error:
        console.complain(f"error: {describe(error)}")
        return ExitCode.USAGE
    except KeyboardInterrupt:
        console.complain("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _without_stdout(ExitCode.PIPE_CLOSED)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        console.complain(f"error: stdout: cannot be written: {error.strerror or error}")
        return _without_stdout(ExitCode.USAGE)


def _without_stdout(code: ExitCode) -> ExitCode:
    """The code, once what is still to be printed has nowhere to go: it would fail again at the very end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return code
