"""The reference workload: three windows of count, mean and maximum by one key, scored by a hundred trees.

It is what `millrace bench reference` measures; nothing in it is about a domain.
"""

from models import pretrained
from models.policy import thresholds
from operators import by, count, max_, mean
from schemas.reference import Reading
from streaming.workload import Workload

WINDOWS = ("1m", "1h", "1d")

reference = Workload(
    name="reference",
    event=Reading,
    features=(
        by("key", count(*WINDOWS), mean("value", *WINDOWS), max_("value", *WINDOWS), ring=8, ids=16, lateness="0s"),
    ),
    model=pretrained("reference"),
    views=False,
    policy=thresholds(review=0.7, reasons=0, degraded="review"),
)
