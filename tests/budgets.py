"""Prints the size of the code and holds its budgets: lines of a file, of a function, parameters, all of it.

Holds what no linter does, too: only `streaming.settings` reads the environment, and no file that git tracks
names a path of one machine. Run by `make check`; exit code 1 names each excess.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "models", "operators", "streaming")
FILE, FUNCTION, PARAMETERS, TOTAL = 400, 50, 8, 19_300
SETTINGS = 11
"""Parameters of a command, which are flags, and of a function that takes them by name only, as a declaration does."""

LANGUAGES = (".py", ".java")
HOMES = re.compile(r"/(home|root|Users)/[a-z]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each function of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [name for name in names if name.arg not in ("self", "cls")]
            named = node.name.endswith("_command") or len(node.args.kwonlyargs) == len(parameters)
            over = len(parameters) - (SETTINGS - PARAMETERS if named else 0)
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, over


def java_methods(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each method of a Java file that is indented as ours are."""
    lines = path.read_text().splitlines()
    start = re.compile(r"^( {4}| {8})(?:[\w<>\[\],.?@ ]+ )?(\w+)\(([^()]*)\)[^;]*\{$")
    for index, line in enumerate(lines):
        found = start.match(line)
        if found and found[2] not in ("if", "for", "while", "switch", "catch", "synchronized", "try"):
            end = next(i for i in range(index, len(lines)) if lines[i].startswith(found[1] + "}"))
            yield found[2], end - index + 1, len(found[3].split(",")) if found[3].strip() else 0


def excesses(path: Path) -> Iterator[str]:
    """What is too long or too wide in one file."""
    name = path.relative_to(ROOT)
    count = len(path.read_text().splitlines())
    if count > FILE:
        yield f"{name}: {count} lines, at most {FILE}"
    for function, lines, parameters in (functions if path.suffix == ".py" else java_methods)(path):
        if lines > FUNCTION:
            yield f"{name}: {function} has {lines} lines, at most {FUNCTION}"
        if parameters > PARAMETERS:
            yield f"{name}: {function} has too many parameters, at most {PARAMETERS}, by name {SETTINGS}"


def strangers() -> Iterator[str]:
    """Tracked text that names a folder of one machine."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__) and path.suffix not in (".onnx", ".png", ".lock"):
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if HOMES.search(line):
                    yield f"{name}:{number}: a path of one machine"


def code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments and docstrings don't count, so that nobody saves on them."""
    text = path.read_text()
    if path.suffix == ".java":
        lines = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines()
        return sum(bool(line.strip()) and not line.strip().startswith("//") for line in lines)
    documented = (ast.Module, ast.ClassDef, *Function.__args__)
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        for child in getattr(node, "body", ()) if isinstance(node, documented) else ():
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                prose.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    lines = text.splitlines()
    return sum(i not in prose and bool(line.strip()) and line.strip()[0] != "#" for i, line in enumerate(lines, 1))


def main() -> int:
    """Print sizes; the exit code says whether the budgets hold."""
    faults, total = list(strangers()), 0
    for package in PACKAGES:
        files = sorted(p for p in (ROOT / package).rglob("*") if p.suffix in LANGUAGES)
        count = sum(map(code_lines, files))
        total += count
        print(f"{package:10} {len(files):3} files {count:6} lines of code")
        for path in files:
            faults += excesses(path)
            if path.name != "settings.py" and re.search(r"\bos\.(environ|getenv)", path.read_text()):
                faults.append(f"{path.relative_to(ROOT)}: reads the environment; streaming/settings.py does")
    print(f"{'all':10} {total:16} lines of code, at most {TOTAL}")
    if total > TOTAL:
        faults.append(f"{total} lines of code in the four packages, at most {TOTAL}: delete what is not needed")
    print("\n".join(faults) or "budgets hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
