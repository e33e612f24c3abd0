"""An operator in a process of its own: what learns, in Python and for as long as it takes, then never holds the
interpreter lock that the stages which decide share.

Its caller waits for each answer, without the lock; so the operator is called as if it stood there. It ends with the
process that started it, however that ends.
"""

import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from models import interpreter
from schemas.errors import MillraceError

NICE = 5
"""Learning gives way to deciding, but not so far that it starves and holds up what feeds it."""

MAIN = "from streaming import apart; apart.main()"

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[str, bytes, list[Any]]).decode

Told = Callable[..., None]


class Apart:
    """What `opener` ("module:function") makes of `spec` there; whatever it says to its second argument, `told` hears
    here. MillraceError with the traceback where a call fails there, or where that process has ended."""

    def __init__(self, opener: str, spec: str, told: Told):
        self._told, self._owed = told, 0
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(interpreter.command(MAIN, NICE), stdin=theirs.fileno())
        self._channel = Connection(ours.detach())
        self._send("open", f"{opener} {spec}".encode())

    def _send(self, method: str, data: bytes) -> None:
        try:
            self._channel.send_bytes(method.encode())
            self._channel.send_bytes(data)
        except OSError as error:
            raise self._ended() from error
        self._owed += 1

    def _ended(self) -> MillraceError:
        code = self._process.wait(10)
        return MillraceError(f"the process that learns ended with exit code {code}, expected it to run")

    def _ask(self, method: str, data: bytes) -> bytes:
        self._send(method, data)
        answer = b""
        while self._owed:
            try:
                failure, answer, said = _unpack(self._channel.recv_bytes())
            except (EOFError, OSError) as error:
                raise self._ended() from error
            self._owed -= 1
            if failure:
                raise MillraceError(f"in the process that learns: {failure}")
            for words in said:
                self._told(*words)
        return answer

    def process(self, buffer: bytes) -> bytes:
        """The answer to one micro-batch."""
        return self._ask("process", buffer)

    def snapshot(self, nothing: bytes) -> bytes:
        """What a checkpoint keeps."""
        return self._ask("snapshot", nothing)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot; what is wrong with it, the next call says: this one waits for nothing."""
        self._send("restore", snapshot)

    def close(self, _: bytes) -> bytes:
        """End the process."""
        self._channel.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
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
        channel.send_bytes(_pack((failure, answer, said)))
        said.clear()


def _receive(channel: Connection, requests: "queue.SimpleQueue[tuple[str, bytes]]") -> None:
    try:
        while True:
            requests.put((channel.recv_bytes().decode(), channel.recv_bytes()))
    except (EOFError, OSError):
        sys.stderr.flush()
        os._exit(0)  # at once: nobody wants what is being computed
