"""Jars: locked, verified, compiled once, and none mixed with another environment's."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from jgo.env import LockFile

from schemas.errors import DefinitionError, Unavailable
from streaming import jars


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the jars of the usual one, and nothing compiled."""
    jars.broker_classpath()
    jars.flink_lib()
    (tmp_path / "jars").symlink_to(jars.CACHE / "jars")
    return tmp_path


@pytest.mark.parametrize("name", jars.COORDINATES)
def test_locks(name: str) -> None:
    """A dependency is fetched without a checksum, or a lock is not of the coordinate it should be of."""
    dependencies = LockFile.load(jars.LOCKS / f"{name}.toml").dependencies
    first = dependencies[0]
    assert f"{first.groupId}:{first.artifactId}:{first.version}" == jars.COORDINATES[name]
    assert all(len(dependency.sha256 or "") == 64 for dependency in dependencies)
    assert len({(d.groupId, d.artifactId, d.classifier) for d in dependencies}) == len(dependencies)


def test_environments_do_not_mix(cache: Path) -> None:
    """The broker's Kafka client is in Flink, or something is there twice."""
    broker = [jar.name for jar in jars.broker_classpath(cache)]
    flink = [path.name for path in jars.flink_lib(cache).iterdir()]
    assert "kafka-clients-4.3.1.jar" in broker
    assert "kafka-clients-4.2.0.jar" in flink
    for needed in ("flink-dist-", "flink-python-", "flink-connector-kafka-", "millrace-"):
        assert len([name for name in flink if name.startswith(needed)]) == 1
    for other in ("kafka-clients-", "slf4j-api-", "ecj-", "kafka_2.13-"):
        assert len([name for name in flink if name.startswith(other)]) == (other == "kafka-clients-")


def test_library_is_built_once(cache: Path) -> None:
    """Every start compiles again, or a link leads nowhere."""
    library = jars.flink_lib(cache)
    jar = jars.compiled(cache)
    stamp = jar.stat().st_mtime_ns
    assert jars.flink_lib(cache) == library
    assert jar.stat().st_mtime_ns == stamp
    assert all(link.resolve().is_file() for link in library.iterdir())
    with zipfile.ZipFile(jar) as archive:
        assert archive.read(jars.STAMP).decode() == jars.fingerprint()
        assert "millrace/Deploy.class" in archive.namelist()


def test_processes_do_not_collide(cache: Path) -> None:
    """Two processes that compile at the same time break one another's jar."""
    program = "import sys, pathlib; from streaming import jars; print(jars.flink_lib(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(cache)]
    root = Path(jars.__file__).parents[1]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)]
    answers = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert answers == {str(jars.flink_lib(cache))}
    assert len(list((cache / "lib").iterdir())) == len(list((cache / "java").iterdir())) == 1
    assert zipfile.ZipFile(jars.compiled(cache)).testzip() is None


def test_a_change_is_compiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited Java file is not compiled again, or its mistake is not shown."""
    before = jars.compiled(cache)
    sources = cache / "sources"
    shutil.copytree(jars.SOURCES, sources)
    monkeypatch.setattr(jars, "SOURCES", sources)
    frames = sources / "millrace" / "Frames.java"
    frames.write_text(frames.read_text() + "// a change\n")
    assert jars.compiled(cache) != before
    frames.write_text(frames.read_text() + "class {")
    with pytest.raises(DefinitionError, match=r"Frames\.java"):
        jars.compiled(cache)
    assert len(list((cache / "java").iterdir())) == 2


def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar that is not the locked one is used, or one that is in the local repository is not found there."""
    repository = tmp_path / "m2" / "none" / "millrace" / "none" / "1"
    repository.mkdir(parents=True)
    (repository / "none-1.jar").write_bytes(b"locked")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setattr(jars, "LOCKS", tmp_path)
    sums = {"good": jars._sha256(repository / "none-1.jar"), "bad": "0" * 64}
    for name, checksum in sums.items():
        (tmp_path / f"{name}.toml").write_text(
            f'[[dependencies]]\ngroupId = "none.millrace"\nartifactId = "none"\nversion = "1"\nsha256 = "{checksum}"\n'
        )
    [jar] = jars._environment("good", tmp_path)
    assert jar.read_bytes() == b"locked"
    with pytest.raises(Unavailable, match=r"none\.millrace:none:1"):
        jars._environment("bad", tmp_path)
    with pytest.raises(DefinitionError, match=r"python -m streaming\.jars"):
        jars._environment("connector", tmp_path)
