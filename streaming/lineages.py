"""What versions of models fight as. A *lineage* is what compiles to one version after the other: they carry its name.

Where a learner starts anew, or people want an older version of its lineage, that version is a lineage of its own.
"""

from collections.abc import Collection, Iterable

MOST = 64
"""Names of each kind that are kept."""


def lineage(version: str) -> str:
    """What a version's name shares with those of the versions before and after it."""
    return version.rpartition("-")[0] or version


class Lineages:
    """Those of one workload: `own` is the model of its definition, `taught` are the lineages of its learners.

    made    lineages that versions may be made of: those, and trees that are refitted
    former  those that were taught by earlier definitions
    apart   versions of either, or the own model where its name is like theirs, which are lineages of their own
    """

    def __init__(self, workload: str, own: str, taught: Collection[str]):
        self.own, self.taught, self.made = own, taught, {*taught, f"{workload}-refit"}
        self.former: list[str] = []
        self.apart: list[str] = []
        self.take((), ())

    def take(self, former: Iterable[str], apart: Iterable[str]) -> None:
        """Go on with what an earlier definition had."""
        self.former = newest(name for name in former if name not in self.taught)
        self.apart = newest((*apart, *([self.own] if self.learned(self.own) else [])))

    def of(self, version: str) -> str:
        """What `version` fights as: one that was learned, as its lineage, any other as itself."""
        learned = self.learned(version) or version == self.own
        return lineage(version) if learned and version not in self.apart else version

    @property
    def root(self) -> str:
        """What the model of the definition fights as."""
        return self.of(self.own)

    def learned(self, version: str) -> bool:
        """Whether `version` is of a lineage that is taught, or was."""
        return lineage(version) in self.made or lineage(version) in self.former

    def strange(self, name: str) -> bool:
        """Whether a version or lineage came from people: it was never learned, and the definition does not name it."""
        ours = (*self.made, *self.former, *self.apart, self.root, self.own)
        return name not in ours and not self.learned(name)

    def part(self, version: str) -> None:
        """Let `version` fight as itself."""
        self.apart = newest((*self.apart, version))


def newest(names: Iterable[str]) -> list[str]:
    """Each once, and not too many."""
    return [*dict.fromkeys(names)][-MOST:]
