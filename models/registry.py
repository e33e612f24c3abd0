"""The registry: every version of the models of every workload, and which of them is champion or challenger.

Beside the way of an event. Training and learners register versions, promotion moves aliases, and an announcement
tells running jobs, which fetch what it names. A registry is a folder, or any URL that fsspec opens:

    <workload>/versions/<version>/model.onnx, manifest.json, measured.json
    <workload>/aliases/00000042.json
    <workload>/report.json

A version never changes, and its folder is one that `artifact.load` reads; the manifest, written last, also says how
the version came about. A revision of the aliases is a new file, made only where there is none of that number: two
writers cannot both make it, a crash leaves nothing half-done and no lock behind, and old files are the history. The
report is what a job said last of all versions.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from models import artifact as artifacts
from models.artifact import Artifact
from models.store import store
from schemas.errors import DefinitionError, ModelRejected, Unavailable
from schemas.models import Announcement, Version

FORMER = 16  # champions that a rollback can go back through
TRIES = 50  # times that a change is tried again because another was first
_WORKLOAD = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"[a-z][a-z0-9_-]{0,63}-[0-9a-f]{12}")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What manifest.json says about a version beside golden rows and recipe.

    schema      fingerprint of `features`: models with the same one read the same columns
    range       event time of the first and the last training example, ms
    parent      the version that was champion when this one was made
    created     ms since the epoch
    reference   what drift is compared with, any JSON value
    measured    metrics since it serves, as of the last `Registry.measure`
    """

    version: str
    sha256: str
    size: int
    features: tuple[str, ...]
    schema: str
    metrics: dict[str, float]
    created: int
    by: str
    range: tuple[int, int] | None = None
    parent: str | None = None
    reference: object = None
    measured: dict[str, float] = msgspec.field(default_factory=dict)


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """The aliases of a workload after a change, and the change: what was done to `version`, by whom, when (ms), why.

    `champion` None is the model that the workload's definition names; `former` are the champions before this one,
    the latest last.
    """

    revision: int = 0
    action: str = ""
    version: str | None = None
    by: str = ""
    at: int = 0
    why: str = ""
    champion: str | None = None
    challengers: tuple[str, ...] = ()
    former: tuple[str | None, ...] = ()
    frozen: bool = False


Edit = Callable[[Revision], dict[str, object]]
"""Aliases → the fields of them that a change sets; raises DefinitionError where it cannot be made."""


class Registry:
    """The models of every workload below `url`, a folder or an fsspec URL; nothing is made before the first write.

    Safe for several processes at once. Raises DefinitionError for what there is not or what cannot be done,
    Unavailable where the registry does not answer, ModelRejected where a stored model is not as it was saved.
    """

    def __init__(self, url: str | Path) -> None:
        self._store = store(str(url))
        self.url = self._store.url

    def register(
        self,
        workload: str,
        artifact: Artifact,
        *,
        parent: str | None = None,
        reference: object = None,
        by: str = "",
        why: str = "",
        at: int | None = None,
    ) -> str:
        """Keep `artifact` and make it a challenger; returns its version. `at`: ms since the epoch, now where None.

        Its recipe may tell its `range`; `reference` is what drift is compared with, any JSON value. A version that is
        there already, and whole, is not written again; a champion stays champion.
        """
        at, version = _now(at), artifact.version
        folder, more = _folder(workload, version), {"size": len(artifact.onnx), "schema": schema(artifact.features)}
        more |= {"range": artifact.recipe.get("range"), "reference": reference}
        more |= {"parent": parent, "created": at, "by": by}
        with TemporaryDirectory() as kept, self._reached():
            manifest = msgspec.json.decode((artifact.save(Path(kept)) / "manifest.json").read_bytes())
            if not self._whole(workload, artifact):
                self._store.write(f"{folder}/model.onnx", artifact.onnx)
                self._store.write(f"{folder}/manifest.json", msgspec.json.encode(manifest | more))
        now = self.aliases(workload)
        if version != now.champion and version not in now.challengers:
            self._change(workload, "registered", version, (by, at, why), lambda now: _challenging(now, version))
        return version

    def _whole(self, workload: str, artifact: Artifact) -> bool:
        """Whether this version is there, as it was saved."""
        try:
            return self.get(workload, artifact.version).onnx == artifact.onnx
        except (DefinitionError, ModelRejected):
            return False

    def aliases(self, workload: str) -> Revision:
        """The newest revision; revision 0 where there is none."""
        newest = self._revisions(workload)[-1:]
        return self._revision(workload, newest[0]) if newest else Revision()

    def history(self, workload: str) -> list[Revision]:
        """Every revision, the oldest first."""
        return [self._revision(workload, number) for number in self._revisions(workload)]

    def champion(self, workload: str) -> str | None:
        """The version that decides; None: the model that the workload's definition names."""
        return self.aliases(workload).champion

    def challengers(self, workload: str) -> tuple[str, ...]:
        """The versions that are scored in shadow, the oldest alias first."""
        return self.aliases(workload).challengers

    def versions(self, workload: str) -> list[Entry]:
        """Every version that was registered and is whole, the oldest first."""
        return self.listed(workload)[0]

    def listed(self, workload: str) -> tuple[list[Entry], dict[str, str]]:
        """The same, and what is wrong with those that are not, by version."""
        with self._reached():
            names = [name for name in self._store.names(f"{_named(workload)}/versions") if _VERSION.fullmatch(name)]
            there = [name for name in names if "manifest.json" in self._store.names(_folder(workload, name))]
        whole, damaged = list[Entry](), dict[str, str]()
        for name in there:
            try:
                whole.append(self.entry(workload, name))
            except ModelRejected as error:
                damaged[name] = str(error)
        return sorted(whole, key=lambda entry: (entry.created, entry.version)), damaged

    def entry(self, workload: str, version: str) -> Entry:
        """What is known about a version beside its bytes."""
        folder = _folder(workload, version)
        manifest = self._manifest(workload, version)
        with self._reached():
            try:
                measured = self._store.read(f"{folder}/measured.json")
            except FileNotFoundError:
                measured = b"{}"
        try:
            entry = msgspec.json.decode(manifest, type=Entry)
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a damaged one is written again
                entry = msgspec.structs.replace(entry, measured=msgspec.json.decode(measured, type=dict[str, float]))
            return entry
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ModelRejected(f"{self.url}/{folder}/manifest.json: {error}; register the model again") from error

    def lacking(self, workload: str, version: str, names: Collection[str]) -> list[str]:
        """What a version reads beside the features `names`: where those are all that there are, it cannot be scored."""
        return [name for name in self.entry(workload, version).features if name not in names]

    def get(self, workload: str, version: str) -> Artifact:
        """The artifact of a version, its bytes verified."""
        return fetch(self.version(workload, version))

    def version(self, workload: str, version: str) -> Version:
        """A version as it is announced: where it is, and what its bytes must be."""
        entry = self.entry(workload, version)
        url, manifest = f"{self.url}/{_folder(workload, version)}", msgspec.Raw(self._manifest(workload, version))
        return Version(version=version, sha256=entry.sha256, size=entry.size, url=url, manifest=manifest)

    def measure(self, workload: str, version: str, measured: Mapping[str, float]) -> None:
        """Keep what was measured of a version since it serves, in place of what was kept before.

        `millrace models` shows `labels`, how many were seen, and `prequential_ap`. Nothing of what is not registered,
        as the model of a definition.
        """
        with self._reached():
            if not _VERSION.fullmatch(version) or "manifest.json" not in self._store.names(_folder(workload, version)):
                return
            found = {name: value for name, value in measured.items() if math.isfinite(value)}
            self._store.write(f"{_folder(workload, version)}/measured.json", msgspec.json.encode(found))

    def report(self, workload: str, report: Mapping[str, object]) -> None:
        """Keep what a job says its models are worth, in place of what was said before."""
        with self._reached():
            self._store.write(f"{_named(workload)}/report.json", msgspec.json.encode(report, enc_hook=float))

    def reported(self, workload: str) -> dict[str, Any] | None:
        """What was said last, as it is on `W.signals`; None where nothing was, or what is damaged."""
        with self._reached(), suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.json.decode(self._store.read(f"{_named(workload)}/report.json"), type=dict[str, Any])
        return None

    def promote(
        self, workload: str, version: str | None, *, why: str = "", by: str = "", at: int | None = None
    ) -> Revision:
        """Make `version` champion (None: the model of the definition). The one before stays as a challenger: a rollback
        finds it warm."""
        if version is not None:
            self._manifest(workload, version)
        return self._change(workload, "promoted", version, (by, at, why), lambda now: _promoted(now, version))

    def rollback(self, workload: str, *, why: str = "", by: str = "", at: int | None = None) -> Revision:
        """Make the champion before the present one champion again; the present one loses its alias."""
        return self._change(workload, "rolled back", None, (by, at, why), _rolled_back)

    def retire(self, workload: str, version: str, *, why: str = "", by: str = "", at: int | None = None) -> Revision:
        """Take its alias from a challenger; its files stay."""
        return self._change(workload, "retired", version, (by, at, why), lambda now: _retired(now, version))

    def freeze(
        self, workload: str, frozen: bool = True, *, why: str = "", by: str = "", at: int | None = None
    ) -> Revision:
        """Keep the champion, whatever is asked for, until `freeze(workload, False)`; challengers may still come."""
        action = "frozen" if frozen else "unfrozen"
        return self._change(workload, action, None, (by, at, why), lambda now: {"frozen": frozen})

    def _change(
        self, workload: str, action: str, version: str | None, who: tuple[str, int | None, str], edit: Edit
    ) -> Revision:
        """The next revision: `edit` of the newest one, made anew where another change was first."""
        by, at, why = who
        for _ in range(TRIES):
            now = self.aliases(workload)
            fields = {"action": action, "version": version, "by": by, "at": _now(at), "why": why}
            try:
                made = msgspec.structs.replace(now, revision=now.revision + 1, **(fields | edit(now)))
            except DefinitionError as error:
                raise DefinitionError(f"registry {self.url}, {workload}: {error}") from error
            with self._reached():
                try:
                    self._store.create(_alias(workload, made.revision), msgspec.json.encode(made))
                    return made
                except FileExistsError:
                    continue
        raise Unavailable(f"registry {self.url}, {workload}: others changed it {TRIES} times meanwhile; try again")

    def _revisions(self, workload: str) -> list[int]:
        with self._reached():
            names = self._store.names(f"{_named(workload)}/aliases")
        return sorted(int(name[:-5]) for name in names if re.fullmatch(r"\d{8}\.json", name))

    def _revision(self, workload: str, number: int) -> Revision:
        name = _alias(workload, number)
        with self._reached():
            data = self._store.read(name)
        try:
            return msgspec.structs.replace(msgspec.json.decode(data, type=Revision), revision=number)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DefinitionError(
                f"{self.url}/{name}: {error}; mend it, or copy the file before it over it"
            ) from error

    def _manifest(self, workload: str, version: str) -> bytes:
        with self._reached():
            try:
                return self._store.read(f"{_folder(workload, version)}/manifest.json")
            except FileNotFoundError as error:
                known = ", ".join(sorted(self._store.names(f"{workload}/versions"))) or "none"
                raise DefinitionError(
                    f"registry {self.url}, {workload}: found no version {version!r}, only {known}"
                ) from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What a file system says as ours."""
        try:
            yield
        except OSError as error:
            raise Unavailable(f"registry {self.url}: {error}; is it there, and may this user write to it?") from error


def schema(features: tuple[str, ...]) -> str:
    """Fingerprint of the columns that a model reads: their names, in order."""
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]


def _now(at: int | None) -> int:
    return time.time_ns() // 1_000_000 if at is None else at


def _named(workload: str) -> str:
    if not _WORKLOAD.fullmatch(workload):
        raise DefinitionError(f"registry: found workload {workload!r}, expected a name like {_WORKLOAD.pattern}")
    return workload


def _folder(workload: str, version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise DefinitionError(f"registry: found version {version!r}, expected one like {_named(workload)}-0123456789ab")
    return f"{_named(workload)}/versions/{version}"


def _alias(workload: str, revision: int) -> str:
    return f"{workload}/aliases/{revision:08}.json"


def _challenging(now: Revision, version: str) -> dict[str, object]:
    known = version == now.champion or version in now.challengers
    return {} if known else {"challengers": (*now.challengers, version)}


def _movable(now: Revision) -> None:
    if now.frozen:
        raise DefinitionError("found it frozen, expected it not to be; `millrace freeze W --off` ends that")


def _promoted(now: Revision, version: str | None) -> dict[str, object]:
    _movable(now)
    if version == now.champion:
        raise DefinitionError(f"{version or 'the model of the definition'} is champion already")
    gone = {version, *now.former[-1:]}  # of former champions only the last is kept warm
    warm = () if now.champion is None else (now.champion,)
    challengers = (*(name for name in now.challengers if name not in gone), *warm)
    return {"champion": version, "challengers": challengers, "former": (*now.former, now.champion)[-FORMER:]}


def _rolled_back(now: Revision) -> dict[str, object]:
    _movable(now)
    if not now.former:
        raise DefinitionError("found no champion before this one to roll back to; `millrace promote` names another")
    champion = now.former[-1]
    challengers = tuple(name for name in now.challengers if name != champion)
    return {"version": now.champion, "champion": champion, "challengers": challengers, "former": now.former[:-1]}


def _retired(now: Revision, version: str) -> dict[str, object]:
    if version not in now.challengers:
        raise DefinitionError(f"found no challenger {version!r}, only {', '.join(now.challengers) or 'none'}")
    return {"challengers": tuple(name for name in now.challengers if name != version)}


def announcement(registry: Registry, workload: str) -> Announcement:
    """What `registry` says about `workload` now, to be published on `millrace.models`; the same until it changes."""
    now, challengers = registry.aliases(workload), list[Version]()
    for name in now.challengers:
        with suppress(DefinitionError, ModelRejected):  # gone or damaged: nobody scores it, and the rest is heard
            challengers.append(registry.version(workload, name))
    return Announcement(
        workload=workload, revision=now.revision, at=now.at, frozen=now.frozen, challengers=tuple(challengers),
        champion=None if now.champion is None else registry.version(workload, now.champion),
        previous=now.former[-1] if now.former else None,
    )  # fmt: skip


def fetch(version: Version) -> Artifact:
    """The announced artifact, from bytes that are the announced ones; ModelRejected where they are not."""
    where = f"{version.url}/model.onnx"
    try:
        onnx = store(version.url).read("model.onnx", version.size + 1)
    except OSError as error:
        raise ModelRejected(f"{where}: {error}; expected model {version.version}, as announced") from error
    found = hashlib.sha256(onnx).hexdigest()
    if len(onnx) != version.size:
        more = "more than " if len(onnx) > version.size else ""
        raise ModelRejected(f"{where}: found {more}{min(len(onnx), version.size)} bytes, announced were {version.size}")
    if found != version.sha256:
        raise ModelRejected(f"{where}: found sha256 {found}, announced was {version.sha256}; register the model again")
    with TemporaryDirectory() as kept:  # `artifact.load` knows what a manifest must be
        (Path(kept) / "model.onnx").write_bytes(onnx)
        (Path(kept) / "manifest.json").write_bytes(bytes(version.manifest))
        try:
            artifact = artifacts.load(Path(kept))
        except ModelRejected as error:
            raise ModelRejected(str(error).replace(kept, version.url)) from error
    if artifact.version != version.version:
        raise ModelRejected(f"{version.url}: found version {artifact.version}, announced was {version.version}")
    return artifact
