"""`millrace explain`: the score that was served is found again from the features that were, or it is said that not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import linear, native
from models.registry import Registry
from schemas.errors import DefinitionError
from streaming.commands.explain import Found, _told, again, newest
from streaming.plan import plan
from streaming.replay import Replay
from streaming.workload import Workload
from streaming.workloads import load

NOW = 1_900_000_000_000


def served(workload: Workload) -> list[tuple[Found, Found]]:
    """Decisions of a replay, and the features that an example would carry."""
    of = plan(workload)
    events = [
        json.dumps(
            {"id": f"e{i}", "at": 1_800_000_000_000 + i * 60_000, "key": f"k{i % 3}", "value": i % 17 / 2}
        ).encode()
        for i in range(200)
    ]
    found = []
    for step in Replay(of, NOW).run(events, []):
        for value, row in zip(step.decided.values, step.decided.columns.tolist(), strict=True):
            features = json.loads(json.dumps(dict(zip(of.names, row, strict=True))))
            found.append((json.loads(value or b""), features))
    return found


def test_the_served_score_is_found_again(tmp_path: Path) -> None:
    """A decision is said to be another than it was, or a changed score to be right."""
    own = load("reference")
    artifact = linear("reference", {"value": 0.3, "key_count_1h": -0.2}, bias=-1.0)
    registry = Registry(tmp_path)
    registry.register("reference", artifact)
    for workload, url in ((own, None), (replace(own, model=artifact), None), (own, str(tmp_path))):
        decider = replace(own, model=artifact) if url else workload
        for decision, features in served(decider)[::20]:
            found = again(workload, decision, features, url)
            assert found["agrees"], (found["score_again"], decision)
            assert len(found["contributions"]) == len(decider.model.features)
            sizes = [abs(one["added"]) for one in found["contributions"]]
            assert sizes == sorted(sizes, reverse=True)
            wrong = again(workload, decision | {"score": decision["score"] + 1e-6}, features, url)
            assert not wrong["agrees"]
            about = {"decision": decision, "ages": {"written_ms": 5}, "repeats": 1} | wrong
            assert "outcomes may have come between" in "\n".join(_told(about))
            assert "come between" not in "\n".join(_told(about | {"repeats": 0}))
            ages = {"ages": {"written_ms": 5, "label_ms": 86_400_000}, "label": True, "presumed": False}
            assert "as served" in "\n".join(_told({"decision": decision, "repeats": 0} | ages | found))
    decision, features = served(own)[0]
    with pytest.raises(DefinitionError, match="'value'"):
        again(replace(own, model=artifact), decision | {"model": artifact.version}, features | {"value": None}, None)
    with pytest.raises(DefinitionError, match="no version"):
        again(own, decision | {"model": "reference-000000000000"}, features, str(tmp_path))


def test_what_was_decided_anew_is_explained_by_its_own_example() -> None:
    """After `deploy --fresh` a decision is explained by the features of another, and said to have been a failure's."""
    old, new = {"model": "a-1", "score": 0.25}, {"model": "b-2", "score": 0.5}
    examples: list[Found] = [{"scores": {"a-1": 0.25, "b-2": 0.75}}, {"scores": {"b-2": 0.5}}, {"scores": {"b-2": 0.9}}]
    assert newest([old, new, new], examples) == (new, examples[1])
    assert newest([new, old], examples) == (old, examples[0])
    assert newest([old, new], examples[:1]) == (new, examples[0])
    assert newest([old], []) == (old, None)


def test_a_score_of_a_stage_is_its_column() -> None:
    """A workload whose state is its model can't be explained."""
    own = replace(load("reference"), model=native("own-1", "value"))
    decision = {"model": "own-1", "score": 0.25}
    assert again(own, decision, {"value": 0.25}, None) == {"score_again": 0.25, "agrees": True}
    assert not again(own, decision, {"value": float(np.nextafter(0.26, 1))}, None)["agrees"]
