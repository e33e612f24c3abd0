"""Redis, which holds copies and never the truth: one bounded connection, and the lookup of others' features.

Place in the way of an event: before a batch is scored, `Lookup` reads what batch jobs left in Redis, in one
round trip; `views` publishes over the same `Link`. One HASH an entity, with a field a feature:
`millrace:fraud:card:c0042` has what is published, `enrich:fraud:card:c0042` what is read. A dead, hung or full Redis
neither raises nor stalls.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from schemas.errors import DefinitionError, Unavailable

log = logging.getLogger("millrace.redis")

# One HMGET a key, answered as packed float64, so that a batch of any size is parsed by one np.frombuffer.
READ = """
local out = {}
for _, key in ipairs(KEYS) do
  local row = redis.pcall('HMGET', key, unpack(ARGV))
  if row.err and not string.find(row.err, 'WRONGTYPE', 1, true) then return row end
  for j = 1, #ARGV do out[#out + 1] = struct.pack('<d', row[j] and tonumber(row[j]) or 0 / 0) end
end
return table.concat(out)
"""


def names_of(prefix: str, entity: str, keys: Iterable[str]) -> list[bytes]:
    """Redis keys of an entity's `keys`; what is no valid Unicode is kept, as no key may be lost or merged."""
    return [f"{prefix}:{entity}:{key}".encode("utf-8", "surrogatepass") for key in keys]


class Link:
    """One connection, one script, one time-out in seconds for every wait, no retries, and a circuit breaker.

    Every failure opens the circuit for `patience[0]` seconds, doubled at each failure in a row up to
    `patience[1]`. While it is open, and until somebody calls `connect`, `call` fails at once and does no I/O.
    """

    def __init__(
        self, url: str, script: str, timeout: float, patience: tuple[float, float] = (0.1, 5.0)
    ) -> None:
        # After the address, whose query could set them: redis-py by default waits 25 s for a hung server.
        waits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), timeout)
        bare = dict.fromkeys(("lib_name", "lib_version"), None)  # saves two round trips
        once = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0, "protocol": 2}
        try:
            pool = redis.ConnectionPool.from_url(url)
            self._open: Any = pool.connection_class
            self._settings: dict[str, Any] = {**pool.connection_kwargs, **waits, **bare, **once}
            self._open(**self._settings)
        except (ValueError, TypeError) as error:
            raise DefinitionError(
                f"Redis address: found {url!r} ({error}), expected redis://host:port/db, rediss:// or unix://"
            ) from error
        self._script, self._sha = script, hashlib.sha1(script.encode()).hexdigest()
        self._patience, self._wait, self._due_at = patience, patience[0], 0.0
        self._connection: Any = None
        self._told = False

    @property
    def up(self) -> bool:
        """Whether the last exchange went well."""
        return self._connection is not None

    @property
    def due(self) -> bool:
        """Whether the circuit is open and it is time to try again."""
        return self._connection is None and time.monotonic() >= self._due_at

    def connect(self) -> None:
        """Connect and load the script; waits for a few time-outs at most, and for the name server."""
        connection = self._open(**self._settings)
        try:
            connection.connect()
            connection.send_command("SCRIPT", "LOAD", self._script)
            connection.read_response()
        except (redis.RedisError, OSError) as error:
            self._fail(connection, error)
        else:
            self._connection = connection

    def call(self, keys: Sequence[bytes], arguments: Sequence[str | int]) -> Any:
        """Run the script in one round trip. Raises Unavailable when it cannot be done now."""
        connection = self._connection
        if connection is None:
            raise Unavailable("Redis: the circuit is open, the call was not made")
        try:
            reply = self._exchange(connection, keys, arguments)
        except (redis.RedisError, OSError) as error:
            self._fail(connection, error)
            raise Unavailable(f"Redis: {error}") from error
        self._wait = self._patience[0]
        if self._told:
            log.warning("Redis is back")
            self._told = False
        return reply

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _exchange(self, connection: Any, keys: Sequence[bytes], arguments: Sequence[str | int]) -> Any:
        command = ("EVALSHA", self._sha, len(keys), *keys, *arguments)
        connection.send_command(*command)
        try:
            return connection.read_response()
        except NoScriptError:  # someone flushed the scripts
            connection.send_command("SCRIPT", "LOAD", self._script)
            connection.read_response()
            connection.send_command(*command)
            return connection.read_response()

    def _fail(self, connection: Any, error: Exception) -> None:
        if not self._told:  # once an outage
            log.warning("Redis is not available: %s", error)
        self._told, self._connection = True, None
        connection.disconnect()
        self._due_at, self._wait = time.monotonic() + self._wait, min(self._wait * 2, self._patience[1])


class Lookup:
    """Features that others keep in Redis, read for one micro-batch at a time. For one thread.

    Connecting, which can take long when a name server is gone, is done at construction and later in the
    background: a server that stops answering costs the hot path one `timeout` (seconds), and no more until it
    is back.
    """

    def __init__(self, url: str, prefix: str, timeout: float = 0.02) -> None:
        self._prefix, self._link = prefix, Link(url, READ, timeout)
        self._link.connect()
        self._revival: threading.Thread | None = None

    @property
    def up(self) -> bool:
        """Whether reads are answered at present."""
        return self._link.up

    def read(
        self, entity: str, keys: Sequence[str], names: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values f64[k, f] of `names` for k `keys` (repeats are read once), and ok[k].

        NaN with ok: nothing there, or nothing that parses as a number. NaN without ok: Redis did not answer,
        so the decision is degraded. Never raises for trouble with the server.
        """
        shape = len(keys), len(names)
        if not all(shape):
            return np.empty(shape), np.ones(shape[0], np.bool_)
        place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        try:
            packed: bytes = self._link.call(names_of(self._prefix, entity, place), names)
        except Unavailable:
            self._revive()
            return np.full(shape, np.nan), np.zeros(shape[0], np.bool_)
        rows = np.frombuffer(packed, "<f8").reshape(-1, shape[1])
        return rows[[place[key] for key in keys]], np.ones(shape[0], np.bool_)

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def _revive(self) -> None:
        if self._link.due and (self._revival is None or not self._revival.is_alive()):
            self._revival = threading.Thread(target=self._link.connect, name="millrace-redis", daemon=True)
            self._revival.start()
