"""Trees that a job has fitted in a process of their own."""

import subprocess
import sys
import time

import pytest

from schemas.errors import ModelRejected
from streaming import refit
from streaming.workloads import Reference

PRINTS = 'print("a word of its author")\nraise ValueError("and no workload")\n'


def request(workload: Reference, until: int = 1_000) -> refit.Request:
    """For trees of examples that nobody has."""
    return refit.Request(workload, "", "none.examples", "", "none", until)


def test_what_a_workload_prints_is_no_answer() -> None:
    """A definition that prints a line ends the process that learns wherever drift asks for trees, and its job begins
    again and again."""
    fitting, until = refit.Fitting(request(Reference("prints.py", PRINTS))), time.monotonic() + 60
    with pytest.raises(ModelRejected, match="ended with exit code 1"):
        while fitting.made(1) is None:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_fit_ends_in_peace() -> None:
    """Each fit ends in an abort, with a core dump and a fatal error in the log, as a thread still reads its input."""
    code = "import threading; from streaming import refit; threading.Thread(target=refit._end, daemon=True).start()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
