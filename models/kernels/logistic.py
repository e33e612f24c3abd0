"""Logistic regression on standardised features, one example at a time: `StandardScaler | LogisticRegression` of River.

The state is one row float64[2 + 3 · d]: examples seen, intercept, then means, variances and weights of the features.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

LIMIT = 1e12  # of a gradient
FAR = 18.0  # log-odds beyond which River takes a simpler form of it


@kernel
def raw_scores(state: F64, X: F32, out: F64) -> None:
    """Log-odds of rows X f32[k, d] into `out` f64[k]."""
    d = X.shape[1]
    mean, variance, weight = state[2 : 2 + d], state[2 + d : 2 + 2 * d], state[2 + 2 * d :]
    for i in range(len(X)):
        z = 0.0
        for j in range(d):
            if variance[j] > 0:
                z += weight[j] * ((X[i, j] - mean[j]) / math.sqrt(variance[j]))
        out[i] = z + state[1]


@kernel
def learn(state: F64, X: F32, y: F64, example_weight: F64, rate: float, l2: float) -> None:
    """Examples in order: X f32[k, d], y f64[k] 0 or 1; a step of `rate` against the gradient of the log-loss each."""
    d = X.shape[1]
    mean, variance, weight = state[2 : 2 + d], state[2 + d : 2 + 2 * d], state[2 + 2 * d :]
    x = np.empty(d)
    for i in range(len(X)):
        state[0] += 1
        z = 0.0
        for j in range(d):
            value, old = X[i, j], mean[j]
            mean[j] += (value - old) / state[0]
            variance[j] += ((value - old) * (value - mean[j]) - variance[j]) / state[0]
            x[j] = (value - mean[j]) / math.sqrt(variance[j]) if variance[j] > 0 else 0.0
            z += weight[j] * x[j]
        z += state[1]
        sign = 1.0 if y[i] > 0 else -1.0
        margin = z * sign
        if margin > FAR:
            g = -sign * math.exp(-margin)
        elif margin < -FAR:
            g = -sign
        else:
            g = -sign / (math.exp(margin) + 1.0)
        g = min(max(g * example_weight[i], -LIMIT), LIMIT)
        state[1] -= rate * g
        for j in range(d):
            weight[j] -= rate * (g * x[j] + l2 * weight[j])
