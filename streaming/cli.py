"""The `millrace` command: every sub-command is a function in `streaming.commands`."""

import errno
import sys

import typer

from schemas.errors import MillraceError
from streaming.commands import bench, demo, explain, files, jobs, ledger, models, options, stack, topics

app = typer.Typer(
    name="millrace",
    help="A streaming real-time inference engine: Kafka in, decisions out, learning on the way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (demo, stack, jobs, topics, files, models, ledger, explain, bench):
    module.register(app)


_UNFIT = "ENOSPC EDQUOT EROFS EACCES EPERM ENOTDIR EEXIST EISDIR"
DISK = tuple(getattr(errno, name) for name in _UNFIT.split())
"""What a disk says that cannot be written to, or a path that is no folder: no fault of ours."""


def main() -> None:
    """Run the command line. Our errors are one message and exit code 1, or 2 when the author must act."""
    try:
        app()
    except MillraceError as error:
        options.err.print(f"[red]{type(error).__name__}[/]: ", end="")
        options.err.print(str(error), highlight=False, markup=False)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK:
            raise
        options.err.print(f"[red]Unavailable[/]: {error.strerror}: ", end="")
        options.err.print(f"{error.filename or 'a file'}; is MILLRACE_HOME where it should be?", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
