"""Promotion and rollback: a challenger becomes champion on evidence that stays valid however often it is looked at.

In the way of an event behind the join: examples with the scores that champion and challengers served go in, in
the order in which their labels became known; verdicts come out, to be announced on `millrace.models`.

Where labels come a week late, so does evidence from what was served: after a change the frozen champion would decide
for one more week. A learner is therefore judged by what it says of an event when its label comes, right before it
learns it, which is as predictable a bet; the claim is about the learner as it is by then. Rollbacks are not: what a
champion's versions decided, and nothing else, may send it away.

The test is an e-process on bounded loss differences (Choe and Ramdas, Operations Research 2024). With
d = loss(champion) - loss(challenger) in [-1, 1], the evidence after t examples is the mean over the stakes λ of
Π (1 + λ d). While the challenger is not better, E[d | past] <= 0, it is a nonnegative supermartingale that starts at
1, so the chance that it ever reaches 1 / α is at most α (Ville). A fifth of it is staked on later starts: a mean over
starts declared beforehand is just as valid, and a model that was the worse one for months, a challenger that has
learned or a champion that has turned bad, need not first win back what that time cost.

All that needs labels of both kinds to come alike. Where they do not (disputes in days, the rest presumed at a horizon),
a duel is about examples known at least `settle` after the first event that both scored: from then on both kinds come as
often as they are, of events of different days.

Sampled examples weigh w = 1 / (share that was kept), stated before the label is known; E[w d] over the kept equals
E[d] over all, and w d / W with a declared bound W >= w is in [-1, 1] again. A heavier example is cut to W (and
counted): then the claim is about the events as they were weighed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.kernels.evaluation import EVERY, SPREAD, advance, later
from models.rules import PromotionRule
from models.snapshot import pack, unpack

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

STAKES = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])  # where one in 150 is a fraud, the largest carries it
CLIP = 1e-4  # log-loss is that of probabilities at least this far from 0 and 1


def difference(champion: F64, challenger: F64, labels: NDArray[np.bool_], loss: str) -> F64:
    """loss(champion) - loss(challenger), f64[k] in [-1, 1]: above 0 where the challenger was nearer to the truth."""
    if loss == "brier":
        return (champion - labels) ** 2 - (challenger - labels) ** 2
    old, new = (np.clip(np.where(labels, s, 1 - s), CLIP, 1 - CLIP) for s in (champion, challenger))
    return np.asarray(np.log(new / old) / -np.log(CLIP))


def settled(
    first: float, seen: NDArray[np.bool_], at: I64, known: I64, settle: int
) -> tuple[NDArray[np.bool_], float]:
    """Which examples, in order, are known at least `settle` ms after the first event `seen`, bool[k], and when it was.

    Before, what is known soon would outweigh the rest. first: when it was so far, inf where none was; at and known:
    when the events were and their labels came, i64[k] ms.
    """
    firsts = np.minimum.accumulate(np.concatenate(([first], np.where(seen, at, np.inf))))
    return seen & (known >= firsts[1:] + settle), float(firsts[-1])


class _Duel(msgspec.Struct, tag="duel/1"):
    evidence: NDArray[np.float64]
    labels: int = 0
    cut: int = 0
    alerts: tuple[float, float] = (0.0, 0.0)
    since: int = 0
    begin: float = np.inf
    early: int = 0


class Duel:
    """The evidence that one challenger is better than the champion. Pure; goes on from `state`, a snapshot."""

    def __init__(self, rule: PromotionRule, state: bytes | None = None, since: int = 0):
        self.rule = rule
        fresh = np.append(np.full(len(STAKES), np.log(1 - SPREAD)), 0.0)
        self._s = unpack(state, _Duel) if state else _Duel(fresh, since=since)

    def settled(self, champion: F64, challenger: F64, at: I64, known: I64) -> tuple[F64, F64]:
        """The scores where both scored, since the champion is one, and labels had `rule.settle` to come; else NaN."""
        if not self.rule.settle:
            return champion, challenger
        s = self._s
        both = np.isfinite(champion) & np.isfinite(challenger) & (at >= s.since)
        counts, s.begin = settled(s.begin, both, at, known, self.rule.settle)
        s.early += int((both & ~counts).sum())
        return np.where(counts, champion, np.nan), np.where(counts, challenger, np.nan)

    def add(
        self,
        champion: F64,
        challenger: F64,
        labels: NDArray[np.bool_],
        weight: F64 | None = None,
        latency: float | None = None,
        frozen: bool = False,
    ) -> int | None:
        """Take examples up to the one that decides, and return its row; None where none did.

        Scores f64[k] as served, NaN where a model did not see the event (left out); labels bool[k]; weight f64[k];
        latency: the challenger's p99 in ms. While `frozen`, evidence is gathered and nothing is decided.
        """
        s, rule = self._s, self.rule
        rows = np.flatnonzero(np.isfinite(champion) & np.isfinite(challenger))
        old, new, truth = champion[rows], challenger[rows], labels[rows]
        w = np.ones(len(rows)) if weight is None else np.asarray(weight, np.float64)[rows]
        most = rule.weight or 1.0
        heavy = w > most
        d = difference(old, new, truth, rule.loss) * np.where(heavy, most, w) / most
        alerted = [_running(was, w * (x >= rule.threshold)) for was, x in zip(s.alerts, (old, new), strict=True)]
        may = s.labels + np.arange(1, len(rows) + 1) >= rule.labels
        if rule.alerts is not None:
            may &= alerted[1] <= rule.alerts * np.maximum(alerted[0], 1.0)
        if frozen or (rule.latency is not None and (latency is None or latency > rule.latency)):
            may[:] = False
        last = advance(s.evidence, STAKES, d, may, -np.log(rule.alpha))
        end = len(rows) if last < 0 else last + 1
        if end:
            s.labels, s.cut = s.labels + end, s.cut + int(heavy[:end].sum())
            s.alerts = (float(alerted[0][end - 1]), float(alerted[1][end - 1]))
        return None if last < 0 else int(rows[last])

    @property
    def evidence(self) -> float:
        """Natural logarithm of the evidence; 1 / alpha promotes."""
        *sums, t = self._s.evidence.tolist()
        begun = max(t - 1 - (t - 1) % EVERY, 0)
        return float(np.logaddexp(np.logaddexp.reduce(sums) - np.log(len(STAKES)), np.log(later(begun))))

    def report(self) -> dict[str, float]:
        """Evidence and its bound (log10), labels, those too early to count, weights cut, and alerts of champion and
        challenger."""
        s = self._s
        found = {"evidence": self.evidence / np.log(10), "needed": -np.log10(self.rule.alpha), "labels": s.labels}
        found |= {"early": s.early, "cut": s.cut}
        return found | {"alerts_champion": s.alerts[0], "alerts_challenger": s.alerts[1]}

    def snapshot(self) -> bytes:
        """The state; `Duel(rule, snapshot)` goes on from it."""
        return pack(self._s)


def _running(start: float, x: F64) -> F64:
    """Sums so far, added one by one from `start`: the same however the rows are split."""
    sums: F64 = np.cumsum(np.concatenate(([start], x)))
    return sums[1:]


@dataclass(frozen=True)
class Verdict:
    """`version` is champion from the example behind `row` on, which was known at `at` ms, instead of `instead`."""

    kind: Literal["promote", "rollback"]
    version: str
    instead: str
    row: int
    at: int
    labels: int
    evidence: float  # natural logarithm


class _Contest(msgspec.Struct, tag="contest/1"):
    champion: str
    previous: str | None
    frozen: bool
    duels: dict[str, bytes]


class Contest:
    """The champion of one workload and its challengers: every challenger in a duel with the champion.

    After a promotion the old champion stays, warm, as the challenger of a reversed duel; if it wins, that is a
    rollback, and the version that was promoted leaves. A new champion starts all duels anew.
    """

    def __init__(self, rule: PromotionRule, champion: str):
        self.rule = rule
        self.champion = champion
        self.previous: str | None = None
        self.frozen = False
        self.duels: dict[str, Duel] = {}

    def names(self) -> list[str]:
        """Who is in: the champion, the one before and the challengers, of whom that is one."""
        return [*dict.fromkeys(name for name in (self.champion, self.previous, *self.duels) if name is not None)]

    def enter(self, version: str) -> None:
        """Let `version` challenge; nothing happens where it is in already."""
        if version != self.champion:
            self.duels.setdefault(version, Duel(self.rule))

    def leave(self, version: str) -> None:
        """Forget a challenger."""
        self.duels.pop(version, None)
        self.previous = None if version == self.previous else self.previous

    def rename(self, name: str, other: str) -> None:
        """Let champion or challenger `name` go on as `other`, with the evidence there is."""
        self.champion = other if self.champion == name else self.champion
        self.previous = other if self.previous == name else self.previous
        self.duels = {other if part == name else part: duel for part, duel in self.duels.items()}

    def crown(self, version: str, now: int = 0) -> None:
        """Make `version` champion at `now` ms, by verdict or by hand; one that yields to the one before leaves."""
        if version == self.champion:
            return
        old, back = self.champion, version == self.previous
        rest = [name for name in self.duels if name != version]
        self.champion, self.previous = version, None if back else old
        self.duels = {name: Duel(self.rule, since=now) for name in rest + ([] if back else [old])}

    def add(
        self,
        scores: Mapping[str, F64],
        labels: NDArray[np.bool_],
        known: I64,
        weight: F64 | None = None,
        latency: Mapping[str, float] | None = None,
        fresh: Mapping[str, F64] | None = None,
        at: I64 | None = None,
        by: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Take `k` examples, in order, and return what they decided.

        scores: f64[k] of each version as served, NaN where it did not see the event; one that is missing saw none.
        known i64[k] ms: when the labels became known; at i64[k] ms: when the events were; by: who decided each, as
        only what a champion decided counts for or against it; latency: p99 in ms of each version, where measured.
        fresh: of some versions, what they would say as the label comes, before they learn it. It counts instead of
        what was served, which is as old as the label is late; but not in a duel that may end in a rollback.
        """
        verdicts: list[Verdict] = []
        start, k = 0, len(labels)
        none, decided = np.full(k, np.nan), np.array(by or (), object)
        while start < k:
            part = slice(start, None)
            w, measured = None if weight is None else weight[part], latency or {}
            own = None if by is None else decided[part] == self.champion
            hits: list[tuple[int, float, str]] = []
            for name, duel in self.duels.items():
                seen = scores if fresh is None or name == self.previous else {**scores, **fresh}
                old, new = seen.get(self.champion, none)[part], seen.get(name, none)[part]
                if own is not None:
                    old = np.where(own, old, np.nan)
                if at is not None:
                    old, new = duel.settled(old, new, at[part], known[part])
                row = duel.add(old, new, labels[part], w, measured.get(name), self.frozen)
                if row is not None:
                    hits.append((row, -duel.evidence, name))
            if not hits:
                break
            row, against, name = min(hits)  # what other duels took behind that row is forgotten with them
            kind: Literal["promote", "rollback"] = "rollback" if name == self.previous else "promote"
            count, loser = self.duels[name]._s.labels, self.champion
            verdicts.append(Verdict(kind, name, loser, start + row, int(known[start + row]), count, -against))
            self.crown(name, int(known[start + row]))
            start += row + 1
        return verdicts

    def report(self) -> dict[str, dict[str, float]]:
        """What each duel stands at."""
        return {name: duel.report() for name, duel in self.duels.items()}

    def snapshot(self) -> bytes:
        """The state, for `Contest.restore`."""
        duels = {name: duel.snapshot() for name, duel in self.duels.items()}
        return pack(_Contest(self.champion, self.previous, self.frozen, duels))

    @classmethod
    def restore(cls, rule: PromotionRule, data: bytes) -> "Contest":
        """The contest that `snapshot` made `data` of; raises ModelRejected for other bytes."""
        s = unpack(data, _Contest)
        contest = cls(rule, s.champion)
        contest.previous, contest.frozen = s.previous, s.frozen
        contest.duels = {name: Duel(rule, state) for name, state in s.duels.items()}
        return contest
