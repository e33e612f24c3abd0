"""JVMs of the local stack: one command line for all, and shared class archives, which make them start fast.

Half of what a JVM does in its first seconds is to load and verify the same classes as the last time. The
first run of a part leaves them in an archive when it ends (`-XX:ArchiveClassesAtExit`); later runs map it. An
archive that no longer fits (other jars, another JRE) has another name here, and the JVM would refuse it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from streaming import jars

LOGGING = Path(__file__).parent / "deploy" / "log4j2.properties"

SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For a JVM that coordinates and does little itself: fewer threads, less compilation."""

BUSY = ("-XX:+UseG1GC",)
"""For a JVM through which every record passes."""

COMPILING = "C2 Compiler", 10
"""Threads that make hot code fast, and how nice they are: in its first minutes they would take a core of two from those
that decide meanwhile with code that is good enough."""

LARGE = 4096
"""MiB of heap from which on a full collection would stop a TaskManager for more than two seconds or so."""


def batching(heap: int) -> tuple[str, ...]:
    """Options of a TaskManager with `heap` MiB. What is young there either dies at once or waits for outcomes for days,
    so it is copied once; a heap that starts small is collected twice as often, and pages that are touched for the first
    time make a collection a half longer. The parallel collector takes 7 % of CPU less than G1 and pauses for half as
    long, but now and then for seconds where the heap is large.
    """
    # What goes to Python and back is one array of up to some megabytes: G1 would treat it as humongous.
    collector = (*BUSY, "-XX:G1HeapRegionSize=8m") if heap > LARGE else ("-XX:+UseParallelGC", "-XX:+AlwaysPreTouch")
    return (*collector, f"-Xms{heap}m", "-XX:MaxTenuringThreshold=1")


def command(
    name: str, heap: str, options: tuple[str, ...], classpath: list[Path], folder: Path, cache: Path
) -> list[str]:
    """The words before the main class: logs, crash report and class archive of a part called `name`.

    `heap` is the greatest heap as `-Xmx` has it (`512m`); `folder` is the part's own, where its archive is
    left for `adopt`; logs go to `../logs` of it.
    """
    logs = folder.parent / "logs"
    for path in (logs, folder):
        path.mkdir(parents=True, exist_ok=True)
    return [
        str(jars.java()),
        f"-Xmx{heap}",
        *options,
        *_archive(name, classpath, folder, cache),
        # A stale archive is no reason to print anything; what the JVM cannot do is.
        "-Xlog:disable",
        "-Xlog:all=error:stderr",
        f"-XX:ErrorFile={logs / name}.crash",
        f"-Dlog.file={logs / name}.log",
        f"-Dlog4j2.configurationFile={LOGGING}",
        "-cp",
        os.pathsep.join(map(str, classpath)),
    ]


def _archive(name: str, classpath: list[Path], folder: Path, cache: Path) -> tuple[str, ...]:
    """Options that use the archive of this part and classpath, or leave one in `folder` on a clean exit."""
    java, kind = jars.java(), name.partition("-")[0]
    key = hashlib.sha256("\n".join(map(str, [java, *classpath])).encode()).hexdigest()[:16]
    base = cache / "classes" / f"java-{hashlib.sha256(str(java).encode()).hexdigest()[:16]}.jsa"
    top = base.with_name(f"{kind}-{key}.jsa")
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
            fresh = Path(scratch) / base.name
            dump = [str(java), "-Xshare:dump", f"-XX:SharedArchiveFile={fresh}"]
            done = subprocess.run(dump, capture_output=True, check=False)
            if done.returncode or not fresh.exists():
                return ()  # slower, and right: the archive is only about speed
            fresh.replace(base)
    if top.exists():
        return (f"-XX:SharedArchiveFile={base}{os.pathsep}{top}",)
    return (f"-XX:SharedArchiveFile={base}", f"-XX:ArchiveClassesAtExit={folder / top.name}")


def adopt(folder: Path, cache: Path) -> None:
    """Move the archive that a stopped part left in its folder to the cache, whole or not at all."""
    for left in folder.glob("*.jsa"):
        target = cache / "classes" / left.name
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fresh = Path(scratch) / left.name
            shutil.copyfile(left, fresh)
            fresh.replace(target)
        left.unlink()
        # Each change of our Java makes new ones: the two newest of a part are enough.
        kin = sorted(target.parent.glob(f"{left.name.partition('-')[0]}-*.jsa"), key=lambda p: p.stat().st_mtime)
        for old in kin[:-2]:
            old.unlink(missing_ok=True)
