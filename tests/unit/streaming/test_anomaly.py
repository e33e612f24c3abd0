"""The anomaly workload learns which alarms people confirm, by its declaration alone."""

import msgspec
import numpy as np

from streaming.plan import plan
from streaming.replay import Replay
from streaming.workloads import load

HOUR, START, NOW = 3_600_000, 1_704_067_200_000, 1_800_000_000_000
SENSORS, HOURS = 60, 1000


def stream() -> tuple[list[bytes], list[bytes], dict[str, bool]]:
    """Readings of sensors that spike now and then, and hang as often; verdicts say that only spikes are anomalies."""
    draw = np.random.default_rng(1)
    values = 20.0 + draw.standard_normal((SENSORS, HOURS)).round(3)
    truth: dict[str, bool] = {}
    for sensor in range(SENSORS):
        for n, at in enumerate(range(200 + sensor, HOURS - 60, 100)):
            if (n + sensor) % 2:
                values[sensor, at] += 15.0
                truth[f"{sensor}-{at}"] = True
            else:
                values[sensor, at : at + 20] = values[sensor, at]
                truth |= {f"{sensor}-{hour}": False for hour in range(at + 1, at + 20)}
    events = [
        {
            "id": f"{sensor}-{hour}",
            "at": START + HOUR * hour,
            "sensor": f"s{sensor}",
            "value": float(values[sensor, hour]),
        }
        for hour in range(HOURS)
        for sensor in range(SENSORS)
    ]
    verdicts = [
        {"id": f"v{id}", "event": id, "at": START + HOUR * (int(id.split("-")[1]) + 2), "label": label}
        for id, label in truth.items()
    ]
    return [msgspec.json.encode(e) for e in events], [msgspec.json.encode(v) for v in verdicts], truth


def test_a_reason_is_named_once() -> None:
    """What two ways to look agree on takes the place of another reason."""
    decisions = [
        msgspec.json.decode(value)
        for step in Replay(plan(load("anomaly", {"values": "0", "alarms": "1/1d"})), NOW).run(stream()[0], [])
        for value in step.decided.values
        if value
    ]
    stuck = [d for d in decisions if d["action"] == "alert" and "stuck" in d["reasons"]]
    assert len(stuck) > 10
    assert all(len(set(d["reasons"])) == len(d["reasons"]) for d in decisions)


def test_verdicts_train_a_challenger_that_is_promoted() -> None:
    """Verdicts only move thresholds, or what they taught never decides: alarms of a kind that nobody wants go on."""
    events, verdicts, truth = stream()
    replay = Replay(plan(load("anomaly", {"values": "0", "learn": "true", "alarms": "1/1d"})), NOW, teach=True)
    steps = list(replay.run(events, verdicts))
    decisions = [msgspec.json.decode(value) for step in steps for value in step.decided.values if value]
    learned = [d for d in decisions if d["model"].startswith("anomaly-")]
    assert learned, "nothing was promoted"
    alerts = [truth[d["id"]] for d in learned if d["action"] == "alert" and d["id"] in truth]
    doubtful = [truth[d["id"]] for d in learned if d["action"] == "doubtful" and d["id"] in truth]
    assert alerts.count(True) > 10 > doubtful.count(True)
    assert doubtful.count(False) > 5 * alerts.count(False)
