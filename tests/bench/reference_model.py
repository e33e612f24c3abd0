"""Makes the model of the reference workload anew: a hundred trees over its nine features, in `models/shipped`.

The label is a noisy function of the features, so that the trees branch as trained trees do; it means nothing.

    python tests/bench/reference_model.py
"""

import numpy as np

from models import SHIPPED
from models.boosting import Boosting, fit
from streaming.load import STEP, values
from streaming.plan import plan
from streaming.replay import Replay
from streaming.workloads import load

EVENTS = 300_000
FEATURES = tuple(
    name for w in ("1m", "1h", "1d") for name in (f"key_count_{w}", f"key_value_mean_{w}", f"key_value_max_{w}")
)
"""By window, as the raw loop computes them."""


def main() -> None:
    """Compute the features by a replay, fit, save."""
    compiled = plan(load("reference"))
    start, step = 1_750_000_000_000, STEP["reference"]
    events = (value for _, value in values("reference", 0, EVENTS, start, step))
    replay = Replay(compiled, start + int(EVENTS * step))
    columns = np.concatenate([taken.decided.columns for taken in replay.run(events, ())])
    X = columns[:, [compiled.names.index(name) for name in FEATURES]]
    chance = np.random.default_rng(0)
    ranks = np.argsort(np.argsort(X, axis=0), axis=0) / len(X)
    logit = 4 * ranks[:, 1] * ranks[:, 2] + 2 * ranks[:, 4] - 2 * ranks[:, 0] - 3 + chance.normal(0, 0.5, len(X))
    label = chance.random(len(X)) < 1 / (1 + np.exp(-logit))
    recipe = {"command": "python tests/bench/reference_model.py", "events": EVENTS}
    artifact = fit(X, label, FEATURES, "reference", params=Boosting(trees=100, leaves=8), recipe=recipe)
    artifact.save(SHIPPED / "reference")
    print(artifact.version)


if __name__ == "__main__":
    main()
