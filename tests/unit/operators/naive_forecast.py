"""Naive twins of the forecasting kernels: each from its definition, over all the data at once."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def least(terms: Floats, values: Floats, keep: float, variance: float) -> Floats:
    """Coefficients after `values`, f64[n]: weighted ridge regression on terms, f64[n, k]."""
    weights = keep ** np.arange(len(values))[::-1]
    prior = np.eye(terms.shape[1]) * keep ** len(values) / variance
    return np.linalg.solve(terms.T @ (weights[:, None] * terms) + prior, terms.T @ (weights * values))


def ahead(coefficients: Floats, lags: list[int], past: list[float], h: int, low: float, high: float) -> list[float]:
    """`h` steps of an autoregression, each from those before it, held between low and high."""
    path = list(past)
    for _ in range(h):
        x = coefficients[0] + sum(b * path[-lag] for b, lag in zip(coefficients[1:], lags, strict=True))
        path.append(min(max(x, low), high))
    return path[len(past) :]


class Smoothing:
    """Damped trend, two additive seasons and an error of order one, in float64."""

    def __init__(self, settings: tuple[float, ...], s1: int, s2: int) -> None:
        self.settings, self.seasons = settings, [np.zeros(max(s, 1)) for s in (s1, s2)]
        self.used = s1 > 0, s2 > 0
        self.level = self.trend = self.error = 0.0

    def learn(self, t: int, x: float | None) -> float:
        """Learn cell `t`, None where it is missing; what was expected."""
        alpha, beta, phi, *gammas, rho = self.settings
        base = self.level + phi * self.trend + sum(s[t % len(s)] for s in self.seasons)
        expected = base + rho * self.error
        e = 0.0 if x is None else x - expected
        self.error = rho * self.error if x is None else x - base
        self.level += phi * self.trend + alpha * e
        self.trend = phi * self.trend + alpha * beta * e
        for season, gamma, used in zip(self.seasons, gammas, self.used, strict=True):
            season[t % len(season)] += gamma * e * used
        return float(expected)

    def ahead(self, t: int, h: int) -> list[float]:
        """Cells t … t + h - 1."""
        phi, rho = self.settings[2], self.settings[5]
        return [
            self.level
            + sum(phi**i for i in range(1, k + 1)) * self.trend
            + sum(s[(t + k - 1) % len(s)] for s in self.seasons)
            + rho**k * self.error
            for k in range(1, h + 1)
        ]


def posterior(squares: Floats, grid: Floats, log: int, season: int, n: float, least: float = 0.01) -> Floats:
    """Weight of each member of the half `log` by its squared errors and its number of terms; below `least` left out."""
    half = grid.shape[1] // 2
    score = np.full(2 * half, -np.inf)
    for k in range(half * log, half * log + half):
        terms = (grid[1, k] > 0) + season * grid[6, k]
        score[k] = -0.5 * (n * np.log(squares[k]) + terms)
    weights = np.exp(score - score.max())
    weights[weights < least] = 0.0
    return np.asarray(weights / weights.sum())


def figures(x: Floats, out: Floats, h: int, k: int) -> tuple[float, float]:
    """sMAPE and coverage of what was issued `k` steps ahead, over a series without gaps; out as the kernel's."""
    smape, inside = [], []
    for t in range(k, len(x)):
        row = out[t - k]
        if row[1] == 1.0:
            mean, lower, upper = row[2 + k], row[2 + h + k], row[2 + 2 * h + k]
            size = abs(mean) + abs(x[t])
            smape.append(200.0 * abs(mean - x[t]) / size if size else 0.0)
            inside.append(lower - 1e-5 <= x[t] <= upper + 1e-5)
    return float(np.mean(smape)), float(np.mean(inside))
