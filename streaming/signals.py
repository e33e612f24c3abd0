"""What an operator wants to be told: records for `W.signals`, and the figures in them that are kept."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from models.exploration import Exploration
from streaming.learning import Learning


class Signal(msgspec.Struct, frozen=True):
    """One record for `W.signals`: `at` is event time, ms."""

    kind: str
    workload: str
    at: int
    detail: dict[str, object]


class Deployed(msgspec.Struct, frozen=True):
    """The detail of a `deployed` signal: how long (ms) decisions wait for an outcome, 0 where the job does not learn;
    which share of those without an alert waits; whether chance decides some of those with the last action; and where
    decisions ended before, by partition."""

    horizon: int
    share: float
    explores: bool
    decisions: dict[int, int]

    def of(self, rule: Learning) -> Learning:
        """`rule` with this horizon and share, and with exploration or without."""
        chance = rule.exploration or Exploration(1.0, "", "")
        return replace(rule, horizon=self.horizon, share=self.share, exploration=chance if self.explores else None)


encode_signal = msgspec.json.Encoder(enc_hook=float).encode
"""Signal → JSON; numbers of NumPy are numbers."""


def quality(report: Mapping[str, object], of: str) -> dict[str, dict[str, float]]:
    """Of each of the `versions` or `lineages` in a `Teacher.report`: labels, and the measures over all of them."""
    found: dict[str, dict[str, float]] = {}
    for name, part in msgspec.convert(report["evaluation"], dict[str, Any])[of].items():
        measures = {"labels": float(part["labels"]), **{f"prequential_{n}": v for n, v in part["overall"].items()}}
        measures["prequential_ap"] = measures.pop("prequential_average_precision", math.nan)
        found[name] = {measure: value for measure, value in measures.items() if math.isfinite(value)}
    return found
