"""An operator in a process of its own: what learns, in Python and for as long as it takes, then never holds the
interpreter lock that the stages which decide share, nor the stages before it, which would hold up those in turn.

Its caller waits for an answer a moment, without the lock; what comes later goes out with a later call. A checkpoint
keeps the newest snapshot and the requests that it does not cover, which are made again after a crash: all is learned
once, and only what was said of those meanwhile may be said twice. It ends with the process that started it, however
that ends.
"""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import numpy as np

from models import interpreter
from models.snapshot import pack, unpack
from schemas import frames
from schemas.errors import MillraceError

NICE = 5
"""Learning gives way to deciding, but not so far that it starves and holds up what feeds it."""

MAIN = "from streaming import apart; apart.main()"

WAIT = 0.05
"""Seconds in which an answer is to come; as long as one is late, nobody waits for those behind it."""

BACKLOG = 64 << 20
"""Bytes of requests that no snapshot covers, before whoever brings more waits."""

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[str, bytes, list[Any]]).decode
_outputs = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode

Told = Callable[..., None]


class _Kept(msgspec.Struct, tag="apart/2"):
    snapshot: bytes
    since: list[bytes]
    words: list[bytes]  # of all that made requests, for whoever is to read them


class Apart:
    """What `opener` ("module:function") makes of `spec` there; whatever it says to its second argument, `told` hears
    here. Its `process` takes a request of row frames and gives pairs of a tag and a frame, as MessagePack. Whoever
    brings more than `reach` ms of event time beyond what it has answered waits. MillraceError with the traceback where
    a call failed there, or where that process has ended. `words` are what a later one has to `hear` before it takes
    requests that were made here."""

    def __init__(self, opener: str, spec: str, told: Told, reach: int, words: bytes = b""):
        self._told, self._reach, self._newest, self._words = told, reach, 0, [words]
        self._asked = deque[tuple[str, int]]()  # each with the event time that was reached, ms; 0 if it reaches none
        self._keep(b"", [])
        self._outputs: list[tuple[int, bytes]] = []
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(interpreter.command(MAIN, NICE), stdin=theirs.fileno())
        self._channel = Connection(os.dup(self._socket.fileno()))
        self._outbox, self._inbox = queue.SimpleQueue[bytes](), queue.SimpleQueue[bytes]()
        # It may not even read, or stop in the middle of an answer.
        self._threads = [threading.Thread(target=to, daemon=True) for to in (self._write, self._read)]
        for thread in self._threads:
            thread.start()
        self._send("open", f"{opener} {spec}".encode())

    def _send(self, method: str, data: bytes, at: int = 0) -> None:
        self._outbox.put(method.encode())
        self._outbox.put(data)
        self._asked.append((method, at))

    def _write(self) -> None:
        with suppress(OSError):  # whoever waits for an answer then is told
            while True:
                self._channel.send_bytes(self._outbox.get())

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._inbox.put(self._channel.recv_bytes())
        self._inbox.put(b"")

    def _hear(self, seconds: float) -> None:
        """Take what it has answered, and wait so long for what it has not."""
        until = time.monotonic() + seconds
        while self._asked:
            try:
                heard = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            if not heard:
                self._inbox.put(heard)  # for the next call
                code = self._process.wait(10)
                raise MillraceError(f"the process that learns ended with exit code {code}, expected it to run")
            failure, answer, said = _unpack(heard)
            method, _ = self._asked.popleft()
            if failure:
                raise MillraceError(f"in the process that learns: {failure}")
            if method == "process":
                self._outputs += _outputs(answer)
            elif method == "snapshot":
                self._keep(answer, self._since[self._covered :])
            for words in said:
                self._told(*words)

    def _keep(self, snapshot: bytes, since: list[bytes]) -> None:
        self._kept, self._since, self._size, self._covered = snapshot, since, sum(map(len, since)), 0

    def _cover(self) -> None:
        """Have a snapshot taken of what was asked so far, unless one is on its way."""
        if not self._covered and self._since:
            self._covered = len(self._since)
            self._send("snapshot", b"")

    def process(self, buffer: bytes) -> bytes:
        """What came of this micro-batch and of those before it, as far as it is known; an empty one only asks."""
        request = frames.parse_request(buffer)
        prompt = not self._asked
        if len(request.slot):
            self._since.append(buffer)
            self._size += len(buffer)
            self._learn(request)
        self._hear(WAIT if prompt else 0.0)
        while next((at for _, at in self._asked if at), self._newest) < self._newest - self._reach:
            self._hear(WAIT)
        while self._size > BACKLOG:
            self._cover()
            self._hear(WAIT)
        tags, outputs = bytes(tag for tag, _ in self._outputs), [frame for _, frame in self._outputs]
        self._outputs.clear()
        return frames.build_response(outputs, tags, np.full(len(request.handed), -1, np.int32), b"", None)

    def _learn(self, request: frames.Request) -> None:
        self._newest = frames.time(request.buffer, int(request.start[-1])) or self._newest
        self._send("process", request.buffer, self._newest)

    def snapshot(self, _: bytes) -> bytes:
        """What a checkpoint keeps."""
        prompt = not self._asked
        self._cover()
        if prompt:  # else answers may be heard that no checkpoint has, and nobody has been told
            self._hear(WAIT)
        return pack(_Kept(self._kept, self._since, self._words))

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot; what is wrong with it, a later call says: this one waits for nothing."""
        state = unpack(snapshot, _Kept)
        self._keep(state.snapshot, state.since)
        if self._kept:
            self._send("restore", self._kept)
        for words in set(state.words).difference(self._words):
            self._words.append(words)
            self._send("hear", words)
        for request in self._since:
            self._learn(frames.parse_request(request))

    def close(self, _: bytes) -> bytes:
        """End the process."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._outbox.put(b"")
        for thread in self._threads:
            thread.join()
        self._channel.close()
        self._socket.close()
        self._process.kill()  # nobody wants what is being computed
        self._process.wait()
        return b""


def main() -> None:
    """The process: requests on standard input, a socket, and their answers there; it ends where the requests do."""
    channel = Connection(os.dup(0))
    requests: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, requests), daemon=True).start()
    said: list[tuple[Any, ...]] = []
    operator: Any = None
    while True:
        method, data = requests.get()
        failure, answer = "", b""
        try:
            if method == "open":
                opener, _, spec = data.decode().partition(" ")
                module, _, function = opener.partition(":")
                operator = getattr(import_module(module), function)(spec, lambda *words: said.append(words))
            else:
                answer = getattr(operator, method)(data) or b""
        except Exception:
            failure = traceback.format_exc()
        try:
            channel.send_bytes(_pack((failure, answer, said)))
        except OSError:
            return  # whoever asked is gone
        said.clear()


def _receive(channel: Connection, requests: "queue.SimpleQueue[tuple[str, bytes]]") -> None:
    try:
        while True:
            requests.put((channel.recv_bytes().decode(), channel.recv_bytes()))
    except (EOFError, OSError):
        sys.stderr.flush()
        os._exit(0)  # at once: nobody wants what is being computed
