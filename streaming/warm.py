"""What the demos need compiled, compiled before the first of them: each one's traffic through its plan, in process.

Beside the way of an event. `make setup` runs it, `python -m streaming.warm NAME…`, and `make demo` for its workload
alone: numba keeps machine code beside the sources, and without it a first job compiles on the way of its first events,
for half a minute. Two processes share the work, and take over from one another what is in the cache.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import numpy as np

from operators.kernels.tables import Rows
from operators.kernels.texts import join, split
from operators.log import Log
from operators.views import Pending
from streaming import shows
from streaming.arrivals import HEAD
from streaming.kernels import read_heads, read_rows, under_own_keys, write_rows, write_sinks
from streaming.lesson import Lesson
from streaming.observe import Cells
from streaming.plan import plan
from streaming.replay import Replay
from streaming.teacher import Teacher
from streaming.workloads import refer, resolve

EVENTS = 20_000
"""Records of each demo: enough days for models to be made and compared."""


def warm(name: str) -> None:
    """Decide what a demo publishes, and learn from it where it does."""
    kind, now = shows.kind(name), time.time_ns() // 1_000_000
    compiled = plan(resolve(refer(name, kind.sets)))
    records = list(islice(kind(shows.Run("", compiled.workload, 500.0, 60.0, None, now)).records(), EVENTS))
    events, outcomes = ([one.value for one in records if one.topic == topic] for topic in ("events", "outcomes"))
    for _ in Replay(compiled, now, teach=compiled.workload.learning is not None).run(events, outcomes):
        pass


def warm_learners(name: str) -> None:
    """Teach a demo's learners made-up examples, of some days."""
    compiled = plan(resolve(refer(name, shows.kind(name).sets)))
    if compiled.workload.learning is not None:
        teacher = Teacher(compiled)
        served = (teacher.contest.champion,), (0.5,), (0.0,) * len(compiled.names)
        times = range(0, 8 * 86_400_000, 40_000)
        teacher.add([Lesson(str(t), "", t, t, t % 3 == 0, False, 1.0, "", *served) for t in times])


def warm_frames() -> None:
    """Read, count, write, publish and log a record as jobs do, and no replay."""
    word, head = np.zeros(1), np.frombuffer(bytes(HEAD.itemsize), np.uint8)
    bounds = np.zeros((1, 2), np.int64)
    read_heads(head, word.view(np.int64), HEAD.itemsize, bounds)
    under_own_keys(head, word.view(np.int64), bounds[:, 1].copy(), *join(["key"]))
    Cells((1.0,)).many(word)
    rows, length = write_rows(np.zeros(24, np.uint8), word.view(np.uint8), 0, *join(["key", "id"]))
    ends = np.array([0, *length])
    _, texts, ends = read_rows(np.frombuffer(rows.tobytes(), np.uint8), ends[:1], ends[1:], 1, 0, 1)
    write_sinks(*join(split(texts, ends)), *join(["value"]))
    pending, row = Pending(1, 1), np.zeros(1, np.int32)
    pending.forget(row)
    pending.merge(row, ["key"], word.view(np.int64), word[:, None])
    pending.take(1)
    features, handed = plan(resolve(refer("fraud", {}))).stages[0].features, np.frombuffer(bytes(4), np.int32)
    log = Log(features.inputs, features.width)
    log.resize(1)
    at, id = word.view(np.int64), word.view(np.uint64)
    log.enter(Rows(row, row.view(np.uint8)[:1], at, at, word, id, word[:, None]), np.ones(1, np.bool_))
    log.write(handed, log.due(handed), *features.pack(features.zero(1)))


if __name__ == "__main__":
    print(f"compiling what {', '.join(sys.argv[1:])} needs: once, up to a minute", file=sys.stderr)
    with ProcessPoolExecutor(2) as pool:
        tasks = [pool.submit(of, name) for name in sys.argv[1:] for of in (warm, warm_learners)]
        for task in (*tasks, pool.submit(warm_frames)):
            task.result()
