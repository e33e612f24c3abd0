"""Python processes of one's own, for what must not share a process with decisions: trials of models, learning."""

import os
import sys
from pathlib import Path


def command(code: str, nice: int) -> list[str]:
    """What runs `code` in a process of its own, with the Python and modules of this one, `nice` from its start."""
    # Inside a JVM `sys.executable` is whatever Python PATH names.
    python = Path(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    begin = f"import os, sys; os.nice({nice}); sys.path[:0] = sys.argv[1:]; {code}"
    return [str(python) if python.exists() else sys.executable, "-P", "-c", begin, *filter(os.path.isabs, sys.path)]
