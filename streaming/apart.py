"""An operator in a process of its own: what learns, in Python and for as long as it takes, then never holds the
interpreter lock that the stages which decide share, nor do they wait for it: it works behind what it is asked.

A checkpoint keeps what the process knew some time ago, and what it was asked since: to learn that again gives the same.
The process ends with the one that started it, however that ends.
"""

import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import numpy as np

from models import interpreter
from models.snapshot import pack, unpack
from schemas import frames
from schemas.errors import MillraceError

NICE = 10
"""Learning gives way to deciding; what it is late for waits."""

ROOM = 64 << 20
"""Bytes of requests that are kept; whoever asks for more waits for the process."""

AHEAD = 2
"""Requests that the process has at a time, so that it never waits for one; a snapshot comes behind those."""

MAIN = "from streaming import apart; apart.main()"

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[str, bytes, list[Any]]).decode

Told = Callable[..., None]


class Behind(msgspec.Struct, tag="behind/1"):
    """What a checkpoint keeps."""

    known: bytes  # a snapshot of the operator, empty where it has not been asked for one
    since: list[bytes]  # requests


class Apart:
    """What `opener` ("module:function") makes of `spec` there; whatever it says to its second argument, `told` hears
    here. MillraceError with the traceback where a call failed there, or where that process has ended.

    It takes micro-batches of records without keyed state; what it puts out comes with the answer to a later one. `late`
    hears how many are still without an answer.
    """

    def __init__(self, opener: str, spec: str, told: Told, late: Callable[[int], None], room: int = ROOM):
        self._told, self._late, self._room = told, late, room
        self._known, self._since, self._bytes = b"", list[bytes](), 0
        self._done, self._sent, self._wanted = 0, 0, False  # of those since the snapshot, and whether to ask for one
        self._flying: deque[str] = deque()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(interpreter.command(MAIN, NICE), stdin=theirs.fileno())
        self._channel = Connection(ours.detach())
        self._send("open", f"{opener} {spec}".encode())

    def process(self, buffer: bytes) -> bytes:
        """Take one micro-batch, and tell what was put out meanwhile; one without records only tells."""
        request = frames.parse_request(buffer)
        if len(request.slot):
            self._since.append(buffer)
            self._bytes += len(buffer)
        outputs = self._go_on(wait=False)
        while self._bytes > self._room and self._done < len(self._since):
            outputs += self._go_on(wait=True)
        self._late(len(self._since) - self._done)
        length = np.full(len(request.handed), -1, np.int32)
        return frames.build_response([f for _, f in outputs], bytes(tag for tag, _ in outputs), length, b"", None)

    def snapshot(self, _: bytes) -> bytes:
        """What a checkpoint keeps."""
        self._wanted = bool(self._since)
        return pack(Behind(self._known, self._since))

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot; what is wrong with it, a later call says."""
        state = unpack(snapshot, Behind)
        self._known, self._since, self._bytes = state.known, state.since, sum(map(len, state.since))
        if state.known:
            self._send("restore", state.known)

    def close(self, _: bytes) -> bytes:
        """End the process."""
        self._channel.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return b""

    def _go_on(self, wait: bool) -> list[tuple[int, bytes]]:
        """Send what there is room for and take the answers that are there, at least one if `wait`; their outputs."""
        outputs: list[tuple[int, bytes]] = []
        while True:
            self._wanted |= self._bytes > self._room // 2 and self._done > 0 and "snapshot" not in self._flying
            while len(self._flying) < AHEAD and (self._wanted or self._sent < len(self._since)):
                if self._wanted:
                    self._send("snapshot", b"")
                    self._wanted = False
                else:
                    self._send("process", self._since[self._sent])
                    self._sent += 1
            if not (wait and self._flying) and not self._polled():  # of a process that has ended that is true
                return outputs
            answer, method = self._receive(), self._flying.popleft()
            if method == "process":
                outputs += frames.parse_response(answer)[0]
                self._done += 1
            elif method == "snapshot":
                self._known, self._bytes = answer, self._bytes - sum(map(len, self._since[: self._done]))
                del self._since[: self._done]
                self._done, self._sent = 0, self._sent - self._done
            wait = False

    def _send(self, method: str, data: bytes) -> None:
        try:
            self._channel.send_bytes(method.encode())
            self._channel.send_bytes(data)
        except OSError as error:
            raise self._ended() from error
        self._flying.append(method)

    def _polled(self) -> bool:
        try:
            return self._channel.poll()
        except OSError as error:
            raise self._ended() from error

    def _receive(self) -> bytes:
        try:
            failure, answer, said = _unpack(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if failure:
            raise MillraceError(f"in the process that learns: {failure}")
        for words in said:
            self._told(*words)
        return answer

    def _ended(self) -> MillraceError:
        code = self._process.wait(10)
        return MillraceError(f"the process that learns ended with exit code {code}, expected it to run")


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
        channel.send_bytes(_pack((failure, answer, said)))
        said.clear()


def _receive(channel: Connection, requests: "queue.SimpleQueue[tuple[str, bytes]]") -> None:
    try:
        while True:
            requests.put((channel.recv_bytes().decode(), channel.recv_bytes()))
    except (EOFError, OSError):
        sys.stderr.flush()
        os._exit(0)  # at once: nobody wants what is being computed
