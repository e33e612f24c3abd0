"""The forecast workload: what it takes from a command line, and how its numbers are written."""

import warnings

import numpy as np
import pytest

from operators import track
from operators.forecast import Forecaster
from schemas.errors import DefinitionError
from streaming.plan import plan
from streaming.workloads.forecast import _rounded, forecast


@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_horizons_may_be_short(horizon: int) -> None:
    """If this fails, who asks for the next value only gets an error about a feature defined twice."""
    names = plan(forecast(horizon=horizon)).names
    assert len(set(names)) == len(names)


def test_seasons_are_durations_or_numbers_of_steps() -> None:
    """If this fails, a season in steps cannot be declared on a command line, or the advice how to names no setting."""
    assert forecast(seasons="24, 168").features == (track("series", Forecaster(24, seasons=(24, 168))),)
    with pytest.raises(DefinitionError, match="every='1h'"):
        forecast(seasons="1d")


def test_numbers_have_seven_digits_or_what_their_intervals_need() -> None:
    """If this fails, a forecast of millions warns of a division by zero, or its interval is rounded away."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = [
            [123456789.0, 1e3, 1e8], [0.0123456789, 0.0, 0.0], [0.0, 0.0, 0.0], [1e30, np.nan, np.nan],
            [123456789.123456, 123456788.123456, 123456790.123456], [1e15 + 0.5, 1e15, 1e15 + 1],
        ]  # fmt: skip
        rows = _rounded(np.array(given))
    expected = [
        [123456800.0, 1e3, 1e8], [0.01234568, 0.0, 0.0], [0.0, 0.0, 0.0], [1e30, np.nan, np.nan],
        [123456789.12, 123456788.12, 123456790.12], [1e15, 1e15, 1e15],
    ]  # fmt: skip
    np.testing.assert_allclose(rows, expected, rtol=1e-12)
