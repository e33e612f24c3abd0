"""What an author writes about an entity's features: `by("card", count("1d"), mean("amount", "1d", "7d"))`.

Declarations only: each function checks what it is given and returns a value; `operators.keyed` compiles it. A
feature is named by its parts: `card_count_1d`, `card_amount_mean_7d`, `terminal_label_rate_30d`.

Windows are (t - delay - window, t - delay] at an event's time t, over the events of its key processed so far,
itself included. They are exact while what they cover fits the key's ring; of what left the ring, whole panes
of a twelfth of the window (more with a long delay) count when they overlap it. Where nothing is known a
feature is 0, and times since are capped (`never`), so that every feature is a finite number. Missing values
(NaN) are left out.
"""

from dataclasses import dataclass
from itertools import chain

from schemas.errors import DefinitionError
from schemas.time import DAY, duration


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One fold and the spans (windows or half-lives) it is wanted for: one feature for each span, or just one."""

    fold: str
    field: str | None = None
    spans: tuple[str, ...] = ()
    delay: int = 0
    of: bool | None = None
    x: float = 0.0
    y: float = 0.0

    def names(self, entity: str) -> tuple[str, ...]:
        """The features' names, one for each span."""
        fold = f"p{100 * self.x:g}" if self.fold == "quantile" else self.fold
        parts = [entity, self.field, fold, None if self.of is None else str(self.of).lower()]
        stem = "_".join(part for part in parts if part).replace(".", "_")
        return tuple(f"{stem}_{span}".replace(".", "_") for span in self.spans) or (stem,)


@dataclass(frozen=True, slots=True)
class Keyed:
    """The features of one entity, and the bounds of what is remembered for each of its keys."""

    entity: str
    aggregates: tuple[Aggregate, ...]
    ring: int
    ids: int
    labels: int
    lateness: int

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in the order of the declaration, which is that of the output columns."""
        return tuple(chain.from_iterable(a.names(self.entity) for a in self.aggregates))

    @property
    def fields(self) -> tuple[str, ...]:
        """Event fields that are read, sorted. `distinct` takes a text field as any number that stands for it."""
        return tuple(sorted({a.field for a in self.aggregates if a.field is not None}))

    @property
    def labelled(self) -> bool:
        """Whether any feature reads outcomes."""
        return any(a.fold.startswith("label_") for a in self.aggregates)


def by(
    entity: str,
    *aggregates: Aggregate,
    ring: int = 128,
    ids: int = 32,
    labels: int = 64,
    lateness: str = "1d",
) -> Keyed:
    """Features for each value of the event field `entity`.

    For each key: `ring` events (and as many true labels) are kept whole, `ids` event ids are known as
    duplicates, and up to `labels` labels wait to be folded until they are `lateness` older than the key's
    newest event. An event later than that sees every label folded before it came.
    """
    where = f"by({entity!r})"
    name(entity, where)
    if not aggregates:
        raise DefinitionError(f"{where}: found no feature, expected at least one; write for example count('1d')")
    for aggregate in aggregates:
        if not isinstance(aggregate, Aggregate):
            raise DefinitionError(f"{where}: found {aggregate!r}, expected a feature; write for example count('1d')")
    for setting, number in (("ring", ring), ("ids", ids), ("labels", labels)):
        if not isinstance(number, int) or not 1 <= number <= 65_536:
            raise DefinitionError(f"{where}: found {setting}={number!r}, expected a whole number from 1 to 65536")
    keyed = Keyed(entity, aggregates, ring, ids, labels, duration(lateness, f"{where} lateness", zero=True))
    twice = {feature for feature in keyed.names if keyed.names.count(feature) > 1}
    if twice:
        raise DefinitionError(
            f"{where}: found feature {min(twice)!r} twice, expected each name once; remove one of them"
            " (a name does not tell delays and other settings apart)"
        )
    return keyed


def name(text: str, where: str) -> str:
    """`text` if it can name a field or an entity."""
    if not isinstance(text, str) or not text.isidentifier():
        raise DefinitionError(f"{where}: found {text!r}, expected the name of an event field")
    return text


def spans(fold: str, field: str | None, texts: tuple[str, ...], what: str = "window") -> tuple[str, ...]:
    """`texts` if each is a duration, and there is one."""
    where = f"{fold}({field!r})" if field else f"{fold}()"
    if not texts:
        raise DefinitionError(
            f"{where}: found no {what}, expected one or more; write for example"
            f" {fold}({repr(field) + ', ' if field else ''}'7d')"
        )
    for text in texts:
        duration(text, f"{where} {what}")
    return texts


def windowed(fold: str, field: str | None, windows: tuple[str, ...], delay: str, x: float = 0.0) -> Aggregate:
    """A fold over sliding windows of one field, or of the events themselves."""
    if field is not None:
        name(field, fold)
    kept = spans(fold, field, windows)
    return Aggregate(fold, field, kept, duration(delay, f"{fold} delay", zero=True), x=x)


def count(*windows: str, delay: str = "0s") -> Aggregate:
    """Events in each window."""
    return windowed("count", None, windows, delay)


def sum_(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Sum of a field over each window."""
    return windowed("sum", field, windows, delay)


def mean(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Mean of a field over each window."""
    return windowed("mean", field, windows, delay)


def var(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Sample variance (n - 1) of a field over each window; 0 of fewer than two."""
    return windowed("var", field, windows, delay)


def std(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Sample standard deviation (n - 1) of a field over each window; 0 of fewer than two."""
    return windowed("std", field, windows, delay)


def min_(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Minimum of a field over each window."""
    return windowed("min", field, windows, delay)


def max_(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Maximum of a field over each window."""
    return windowed("max", field, windows, delay)


def distinct(field: str, *windows: str, delay: str = "0s") -> Aggregate:
    """Distinct values of a field over each window: exact, or a HyperLogLog of 9 % where events left the ring.

    Values are float64: whole numbers beyond 2**53 that are close are one.
    """
    return windowed("distinct", field, windows, delay)


def quantile(field: str, q: float, *windows: str, delay: str = "0s") -> Aggregate:
    """Quantile of a field over each window, linear between ranks: exact, or by 15 centroids for each pane."""
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
        raise DefinitionError(
            f"quantile({field!r}): found {q!r}, expected a number from 0 to 1; write for example"
            f" quantile({field!r}, 0.9, '7d')"
        )
    return windowed("quantile", field, windows, delay, float(q))


def decayed_count(*half_lives: str) -> Aggregate:
    """Events, each halved with every half-life that has passed since."""
    return Aggregate("decayed_count", None, spans("decayed_count", None, half_lives, "half-life"))


def decayed_sum(field: str, *half_lives: str) -> Aggregate:
    """Sum of a field, each value halved with every half-life that has passed since."""
    name(field, "decayed_sum")
    return Aggregate("decayed_sum", field, spans("decayed_sum", field, half_lives, "half-life"))


def since(never: str = "365d") -> Aggregate:
    """Days since the key's event before this one, at most `never`."""
    return Aggregate("since", x=duration(never, "since never") / DAY)


def previous(field: str) -> Aggregate:
    """A field of the key's event before this one."""
    return Aggregate("previous", name(field, "previous"))


def label_rate(*windows: str, delay: str = "0s") -> Aggregate:
    """Share of each window's events that are known to be true; those of unknown label count as false."""
    return windowed("label_rate", None, windows, delay)


def _truth(of: object, what: str) -> bool:
    if not isinstance(of, bool):
        raise DefinitionError(f"{what}: found of={of!r}, expected True or False; it counts all events, in no window")
    return of


def label_mean(field: str, of: bool = False) -> Aggregate:
    """Mean of a field over all events known to be `of`."""
    return Aggregate("label_mean", name(field, "label_mean"), of=_truth(of, "label_mean"))


def label_std(field: str, of: bool = False) -> Aggregate:
    """Sample standard deviation of a field over all events known to be `of`."""
    return Aggregate("label_std", name(field, "label_std"), of=_truth(of, "label_std"))


def label_max(field: str, of: bool = False) -> Aggregate:
    """Maximum of a field over all events known to be `of`."""
    return Aggregate("label_max", name(field, "label_max"), of=_truth(of, "label_max"))


def label_since(of: bool = True, never: str = "365d") -> Aggregate:
    """Days since the latest event known to be `of`, at most `never`."""
    return Aggregate("label_since", of=of, x=duration(never, "label_since never") / DAY)


def label_run() -> Aggregate:
    """How many events are known to be true and later than the latest known to be false."""
    return Aggregate("label_run")


def label_run_age() -> Aggregate:
    """Days since the first event of that run; 0 of none."""
    return Aggregate("label_run_age")


def label_decay(half_life: str = "14d") -> Aggregate:
    """Events known to be true, each halved with every half-life that has passed since it happened."""
    return Aggregate("label_decay", spans=spans("label_decay", None, (half_life,), "half-life"))


def label_smoothed(prior: float = 0.01, weight: float = 10.0) -> Aggregate:
    """Share of true among all known labels, as if `weight` more with share `prior` were known."""
    if not 0 <= prior <= 1 or not weight > 0:
        raise DefinitionError(
            f"label_smoothed: found prior={prior!r}, weight={weight!r},"
            " expected a prior from 0 to 1 and a weight above 0"
        )
    return Aggregate("label_smoothed", x=float(weight), y=float(prior))
