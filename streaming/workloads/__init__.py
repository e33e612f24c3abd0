"""Finding workloads: the ones in this folder, those that packages register, and files by path.

One file holds one workload: a `Workload`, or a function that returns one and whose keyword arguments are the
parameters that `--set NAME=VALUE` overrides. Packages register theirs under the entry point `millrace.workloads`.
"""

import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from schemas.errors import DefinitionError, MillraceError
from streaming.workload import Workload

Definition = Workload | Callable[..., Workload]

GROUP = "millrace.workloads"
WAYS = "a Workload, or a function of parameters with defaults, as def mine(review: float = 0.5) -> Workload"


class Reference(msgspec.Struct, frozen=True):
    """A workload as it travels to a cluster: a name, or a file with its text, and overridden parameters."""

    name: str
    source: str | None = None
    set: dict[str, str] = msgspec.field(default_factory=dict)


def refer(name: str, overrides: Mapping[str, str]) -> Reference:
    """The reference to workload `name`: one that `names` lists, or the path of a Python file.

    Nothing here may have the name of a workload: once imported, its module would take the place.
    """
    if not name.endswith(".py"):
        return Reference(name, None, dict(overrides))
    path = Path(name)
    try:
        return Reference(str(path), path.read_text(), dict(overrides))
    except OSError as error:
        raise DefinitionError(f"workload {name}: {error.strerror}; expected a Python file that defines one") from error


def names() -> list[str]:
    """Every workload known by name."""
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*own, *(entry.name for entry in importlib.metadata.entry_points(group=GROUP))})


def resolve(reference: Reference) -> Workload:
    """The workload that `reference` names, with its overridden parameters."""
    return _build(_definition(reference), reference)


def load(name: str, overrides: Mapping[str, str] | None = None) -> Workload:
    """The workload `name` (or path), with parameters overridden."""
    return resolve(refer(name, overrides or {}))


def _definition(reference: Reference) -> Definition:
    if reference.source is not None:
        # By its text: a TaskManager keeps modules. Known to Python, where msgspec looks up what annotations name.
        name = f"millrace_workload_{hashlib.sha256(reference.source.encode()).hexdigest()[:16]}"
        module = sys.modules[name] = types.ModuleType(name)
        module.__file__ = reference.name
        with _author(reference.name):
            exec(compile(reference.source, reference.name, "exec"), module.__dict__)
        return _only(module, reference.name)
    for entry in importlib.metadata.entry_points(group=GROUP, name=reference.name):
        found: Definition = entry.load()
        return found
    if reference.name not in names():
        raise DefinitionError(f"workload {reference.name!r}: expected {', '.join(names())}, or the path of a .py file")
    return _only(importlib.import_module(f"{__name__}.{reference.name}"), reference.name)


@contextmanager
def _author(file: str) -> Iterator[None]:
    """What an author's own code does wrong, with the line of their file."""
    try:
        yield
    except MillraceError:
        raise
    except Exception as error:
        here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else here[-1].lineno if here else None
        raise DefinitionError(f"workload {file}, line {line}: {type(error).__name__}: {error}") from error


def _only(module: types.ModuleType, name: str) -> Definition:
    """The one definition in `module`."""
    found = {id(value): value for value in vars(module).values() if _is_definition(value, module)}
    if len(found) != 1:
        raise DefinitionError(f"workload {name}: found {len(found)} workloads in it, expected one: {WAYS}")
    chosen: Definition = next(iter(found.values()))
    return chosen


def _is_definition(value: object, module: types.ModuleType) -> bool:
    if isinstance(value, Workload):
        return True
    return (
        inspect.isfunction(value)
        and value.__module__ == module.__name__
        and inspect.signature(value).return_annotation in (Workload, "Workload")
    )


def parameters(definition: Definition) -> dict[str, inspect.Parameter]:
    """The parameters that a definition declares."""
    return {} if isinstance(definition, Workload) else dict(inspect.signature(definition).parameters)


def describe_parameters(name: str) -> dict[str, object]:
    """Declared parameters of workload `name`, with their defaults."""
    return {key: p.default for key, p in parameters(_definition(refer(name, {}))).items()}


def _build(definition: Definition, reference: Reference) -> Workload:
    declared = parameters(definition)
    values = {}
    for key, text in reference.set.items():
        if key not in declared:
            listed = ", ".join(declared) or "none"
            raise DefinitionError(f"--set {key}={text}: workload {reference.name!r} declares no {key!r}, only {listed}")
        type = declared[key].default.__class__
        try:
            values[key] = msgspec.convert(text, type, strict=False)
        except msgspec.ValidationError as error:
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(type, type.__name__)
            like = msgspec.json.encode(declared[key].default, enc_hook=repr).decode()
            raise DefinitionError(f"--set {key}={text}: found {text!r}, expected {wanted}, such as {like}") from error
    if isinstance(definition, Workload):
        return definition
    if bare := [key for key, parameter in declared.items() if parameter.default is parameter.empty]:
        raise DefinitionError(f"workload {reference.name}: found no default of {bare[0]!r}, expected {WAYS}")
    with _author(reference.name):
        return definition(**values)
