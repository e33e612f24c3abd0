"""The record on `millrace.models`: which model version of a workload decides, and which are scored beside it.

Beside the way of an event: the registry's commands publish it (key: the workload; compacted), running jobs take the
models up between two batches. It names files and says what their bytes must be; it never holds the bytes of a model.
"""

from typing import Annotated

import msgspec

from schemas.errors import ModelRejected

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
VersionName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}-[0-9a-f]{12}$")]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One model version: `url` is the folder that holds model.onnx, of `size` bytes with that `sha256`.

    `manifest` is the JSON of its manifest.json: features, golden rows, metrics, training range.
    """

    version: VersionName
    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=64 << 20)]
    url: str
    manifest: msgspec.Raw


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The models of `workload`, whole: what is not in here is no longer used.

    revision    grows with each change; one that is not above the last that was taken up is old news
    champion    decides; None: the model that the workload's definition names
    challengers are scored in shadow
    previous    the champion before, to which a rollback returns; after a promotion it is among the challengers,
                unless it is None: the definition's model, or there is none to return to
    frozen      whether automatic promotions and rollbacks are forbidden
    at          when it was decided, ms since the epoch
    """

    workload: Name
    revision: Annotated[int, msgspec.Meta(ge=0)]
    at: int
    champion: Version | None = None
    challengers: tuple[Version, ...] = ()
    previous: VersionName | None = None
    frozen: bool = False


_DECODER = msgspec.json.Decoder(Announcement)


def encode(announcement: Announcement) -> bytes:
    """The value of its record; the key is `announcement.workload`."""
    return msgspec.json.encode(announcement)


def decode(value: bytes) -> Announcement:
    """The announcement in a record's value; ModelRejected where it is none: what serves stays."""
    try:
        return _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRejected(
            f"announcement on millrace.models: {error}; found {value[:80]!r}, expected what `millrace promote` sends"
        ) from error
