"""Models as they are announced on `millrace.models`: a running job tries them beside its batches, and takes them up
between two of them. What is refused takes nothing from what serves.
"""

import threading
from collections.abc import Sequence

from models.admission import admit
from models.onnx import Session
from models.registry import fetch
from schemas import frames
from schemas.errors import ModelRejected
from schemas.models import Announcement, Version, decode
from schemas.time import duration
from streaming.plan import Plan
from streaming.signals import Signal, encode_signal


class Models:
    """The models of a stage as they are announced: fetched and tried in a thread, taken up between two batches."""

    def __init__(self, plan: Plan, name: str):
        self._plan, self._name = plan, name
        self._budget = float(duration(plan.workload.budget))
        self._sessions: dict[str, Session] = {}
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._ready: tuple[Session | None, tuple[Session, ...]] | None = None
        self._champion: Session | None = None
        self._signals: list[Signal] = []
        self._waiting: list[Announcement] = []
        self._revision = self._taken = -1

    def announced(self, value: bytes, wait: bool) -> None:
        """Take up an announcement; with `wait`, before this returns: there is no batch to hold up yet."""
        try:
            found = decode(value)
        except ModelRejected as error:
            self.refused(0, "announcement", error)
            return
        if found.workload != self._name or found.revision <= self._revision:
            return
        self._revision = found.revision
        self._waiting.append(found)
        thread = threading.Thread(target=self._load, daemon=True, name="millrace-models")
        thread.start()
        if wait:
            thread.join()

    def _load(self) -> None:
        with self._loading:  # one at a time, the newest first; an older one that is good counts where that is refused
            announced = self._waiting.pop()
            if announced.revision >= self._taken:
                self._try(announced)

    def _try(self, announced: Announcement) -> None:
        """Let the announced models serve: the champion as soon as it has passed, the others when they have, too, or
        when another champion is announced."""
        found, wanted = announced.champion, announced.challengers if self._plan.workload.learning else ()
        champion = self._passed(announced, found) if found else None
        good = found is None or champion is not None
        champion = champion if good else self._champion  # stays where the announced one is refused
        if champion is not self._champion:
            self._serve(champion, wanted)
        for version in wanted:
            if any(other.champion != found for other in self._waiting if other.revision > announced.revision):
                return
            self._passed(announced, version)
        self._serve(champion, wanted)
        self._taken = announced.revision if good else self._taken

    def _passed(self, announced: Announcement, version: Version) -> Session | None:
        """The model as it was announced; None where it is refused, which is told."""
        kept = self._sessions.get(version.version)
        if kept is None or kept.artifact.sha256 != version.sha256:
            try:
                kept = admit(fetch(version), features=self._plan.names, budget_ms=self._budget)
            except Exception as error:  # of any kind: nobody waits for this thread
                self._sessions.pop(version.version, None)
                self.refused(announced.at, version.version, error)
                self._revision = min(self._revision, announced.revision - 1)  # it may be mended, and announced again
                return None
            self._sessions[version.version] = kept
        return kept

    def _serve(self, champion: Session | None, wanted: Sequence[Version]) -> None:
        """Let `champion` decide, and those of `wanted` that have passed be scored, from the next batch on."""
        beside = {c.version: self._sessions[c.version] for c in wanted if c.version in self._sessions}
        with self._lock:
            self._champion, self._ready = champion, (champion, tuple(beside.values()))
        self._sessions = beside if champion is None else beside | {champion.artifact.version: champion}

    def refused(self, at: int, model: str, error: Exception) -> None:
        """Note that a model cannot be used."""
        with self._lock:
            self._signals.append(Signal("refused", self._name, at, {"model": model, "reason": str(error)}))

    def take(self) -> tuple[tuple[Session | None, tuple[Session, ...]] | None, list[bytes]]:
        """New models that are ready, once, and signals for the topic."""
        if self._ready is None and not self._signals:
            return None, []
        with self._lock:
            ready, self._ready = self._ready, None
            signals, self._signals = self._signals, []
        key = self._name.encode()
        return ready, [frames.sink(key, encode_signal(signal)) for signal in signals]
