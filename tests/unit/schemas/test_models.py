"""Announcements: what was published is what is read, and nothing else is taken for one."""

import msgspec
import pytest

from schemas.errors import ModelRejected
from schemas.models import Announcement, Version, decode, encode

VERSION = Version(
    version="fraud-0123456789ab", sha256="0123456789ab" + "0" * 52, size=7, url="/models/fraud",
    manifest=msgspec.Raw(b'{"features":["amount"],"reference":{"amount":[0.1,1e-300]}}'),
)  # fmt: skip
GOOD = Announcement(
    workload="fraud", revision=3, at=1_700_000_000_000, champion=VERSION, challengers=(VERSION,), frozen=True
)


def test_round_trip() -> None:
    """A job takes up other models than were announced."""
    assert decode(encode(GOOD)) == GOOD
    assert bytes(decode(encode(GOOD)).challengers[0].manifest) == bytes(VERSION.manifest)
    own = Announcement(workload="fraud", revision=0, at=0)
    assert decode(encode(own)) == own


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"workload": "../evil"}, "workload"),
        ({"revision": -1}, "revision"),
        ({"champion": {}}, "champion"),
        ({"challengers": [{"version": "../x"}]}, "challengers"),
        ({"frozen": 1}, "frozen"),
    ],
)
def test_a_malformed_field_is_named(change: dict[str, object], word: str) -> None:
    """A damaged announcement changes the models, or the operator is not told what is wrong with it."""
    value = msgspec.json.encode(msgspec.json.decode(encode(GOOD)) | change)
    with pytest.raises(ModelRejected, match=word):
        decode(value)


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"\xff", b"[" * 50_000, encode(GOOD)[:-1]])
def test_bytes_that_are_none_are_refused(value: bytes) -> None:
    """Some bytes on millrace.models stop the job."""
    with pytest.raises(ModelRejected, match="announcement"):
        decode(value)
