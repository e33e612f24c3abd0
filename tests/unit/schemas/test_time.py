"""Durations as authors write them."""

import pytest

from schemas.errors import DefinitionError
from schemas.time import duration


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("90s", 90_000),
        ("5m", 300_000),
        ("1.5h", 5_400_000),
        ("1.1h", 3_960_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
    ],
)
def test_durations_are_milliseconds(text: str, ms: int) -> None:
    """A window of another length than the author wrote."""
    assert duration(text) == ms


@pytest.mark.parametrize("text", ["7x", "", "7", "d", "-1d", "7 d", "0s", "0.1ms", "1e3s", 7, None])
def test_anything_else_is_refused_by_name(text: str) -> None:
    """A window that is silently zero, or read in another unit."""
    with pytest.raises(DefinitionError, match=r"window: found .*expected .*; write for example"):
        duration(text, "window")


def test_zero_is_allowed_where_it_means_something() -> None:
    """No delay and no lateness cannot be written."""
    assert duration("0s", zero=True) == 0
