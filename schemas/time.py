"""Durations as an author writes them: `"7d"`, `"90s"`, `"250ms"`; everything that travels counts milliseconds."""

import re
from decimal import Decimal

from schemas.errors import DefinitionError

MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DAY = float(MILLISECONDS["d"])

_FORM = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def duration(text: str, what: str = "duration", zero: bool = False) -> int:
    """Milliseconds of `text`, a number and one unit of ms, s, m, h, d, w.

    `what` names the setting in the error; `zero` allows "0s". Raises DefinitionError for anything else.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise DefinitionError(
            f"{what}: found {text!r}, expected a number and a unit of ms, s, m, h, d or w; write for example '7d'"
        )
    value = Decimal(match[1]) * MILLISECONDS[match[2]]
    if value != int(value) or value < (0 if zero else 1):
        raise DefinitionError(
            f"{what}: found {text!r}, which is {value:g} ms, expected whole milliseconds"
            f"{'' if zero else ' above zero'}; write for example '1d'"
        )
    return int(value)


def about(ms: float) -> str:
    """A duration in the largest unit that it has one of, up to days, as `"6.9d"`."""
    unit = next((name for name in ("d", "h", "m", "s") if ms >= MILLISECONDS[name]), "ms")
    return f"{ms / MILLISECONDS[unit]:.3g}{unit}"
