"""What an operator wants to be told: records for `W.signals`, and the figures in them that are kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from models.exploration import Exploration
from streaming.learning import Learning


class Signal(msgspec.Struct, frozen=True):
    """One record for `W.signals`: `at` is event time, ms."""

    kind: str
    workload: str
    at: int
    detail: dict[str, object]


Offsets = dict[int, Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]]


class Deployed(msgspec.Struct, frozen=True):
    """The detail of a `deployed` signal: how long (ms) decisions wait for an outcome, 0 where the job does not learn;
    which share of those without an alert waits; whether chance decides some of those with the last action; and where
    decisions ended before, by partition. After `--fresh` also where `examples` did: all is decided and learned anew."""

    horizon: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    explores: bool
    decisions: Offsets
    examples: Offsets | None = None

    def of(self, rule: Learning) -> Learning:
        """`rule` with this horizon and share, and with exploration or without."""
        chance = rule.exploration or Exploration(1.0, "", "")
        return replace(rule, horizon=self.horizon, share=self.share, exploration=chance if self.explores else None)


encode_signal = msgspec.json.Encoder(enc_hook=float).encode
"""Signal → JSON; numbers of NumPy are numbers."""


SPANS = {"overall": "prequential", "fading": "fading", "window": "window"}
"""What measures of a report are over, and how their names begin where they are told one by one."""


def quality(report: Mapping[str, object], of: str) -> dict[str, dict[str, float]]:
    """Of each of the `versions` or `lineages` in a `Teacher.report`: labels, the share still unlabelled, and the
    measures, as `prequential_ap` over all of them, `fading_ap` and `window_ap`."""
    parts = msgspec.convert(report["evaluation"], dict[str, Any])[of]
    return {name: _measures(part, ("labels", "unlabelled")) for name, part in parts.items()}


def segments(report: Mapping[str, object]) -> dict[tuple[str, str], dict[str, float]]:
    """The same measures by lineage and segment."""
    parts = msgspec.convert(report["evaluation"], dict[str, Any])["lineages"].items()
    return {(name, of): _measures(s) for name, part in parts for of, s in part.get("segments", {}).items()}


def delay(report: Mapping[str, object]) -> dict[str, float]:
    """How long after their events labels came, ms, as `label_delay_p50`."""
    found = msgspec.convert(report["evaluation"], dict[str, Any])["delay"]
    return {f"label_delay_{name}": value for name, value in found.items() if value is not None and math.isfinite(value)}


def _measures(part: Mapping[str, Any], counts: Sequence[str] = ()) -> dict[str, float]:
    found = {name: part[name] for name in counts}
    for span, begin in SPANS.items():
        for name, value in part.get(span, {}).items():  # of a closed version there is but one
            found[f"{begin}_{'ap' if name == 'average_precision' else name}"] = value
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
