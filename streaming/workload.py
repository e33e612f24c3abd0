"""Workloads: what an author declares. Open this module first.

A workload is one frozen value that says what an event is, which features are kept for which entities, which model
scores them and what is done about the score. Defining it runs nothing; a mistake in it fails on the spot and names
the field, what was found and what was expected. `plan` turns it into stages, `replay` and `flink` run those.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.artifact import LONGEST, Artifact
from models.learners import Learner
from models.native import Native
from models.policy import Policy
from operators import Keyed, Tracked
from schemas.errors import DefinitionError
from schemas.records import Event, Outcome
from schemas.time import duration
from schemas.topics import Topics
from streaming.learning import Learning

Column = NDArray[np.float64]


class Columns(Protocol):
    """What a derived feature reads: every earlier feature and numeric event field, as float64[k] by its name.

    Beside them `at` (i64[k], ms since the epoch), `hour` (0 to 23) and `weekday` (0 is Monday), both in UTC.
    """

    def __getattr__(self, name: str) -> Column: ...


Expression = Callable[[Columns], Column | NDArray[np.bool_]]


@dataclass(frozen=True)
class Derive:
    """Features computed from others, in this order, each a vectorised expression over columns."""

    expressions: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Field:
    """A numeric field of an event. One that may be missing is NaN then; of a mapping, `room` is how many entries it
    has at most (0: it is a number), its columns are those, by name, and how many there are."""

    name: str
    optional: bool
    room: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        entries = tuple(f"{self.name}.{i}" for i in range(self.room))
        return (*entries, f"{self.name}.n") if self.room else (self.name,)


@dataclass(frozen=True)
class Enrich:
    """Features that some batch job writes to Redis by entity, read once for each micro-batch.

    `field` names them in the hash `enrich:{workload}:{entity}:{key}`; the feature is called `{entity}_{field}`.
    `default` stands in for a value that is not there, and for all of them while Redis is (then the decision is
    marked degraded).
    """

    entity: str
    field: str
    default: float

    @property
    def name(self) -> str:
        """Name of the feature."""
        return f"{self.entity}_{self.field}"


def derive(**expressions: Expression) -> Derive:
    """Derived features: `derive(night=lambda f: f.hour <= 6, amount_ratio=lambda f: f.amount / f.card_amount_mean_7d)`.

    What is not finite (x / 0, log of 0) becomes 0; truth values become 0 and 1.
    """
    for name, expression in expressions.items():
        if not callable(expression):
            raise DefinitionError(f"derive({name}=…): found {expression!r}, expected a function of columns")
    return Derive(tuple(expressions.items()))


def enrich(entity: str, field: str, *, default: float) -> Enrich:
    """A feature read from Redis: `enrich("card", "risk_tier", default=0.0)`."""
    return Enrich(entity, field, float(default))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One streaming workload, from event to decision.

    event and outcome: record types (subclasses of `Event` and `Outcome`); features: `by(entity, …)` and
    `track(entity, …)` blocks, the first by the entity that keys the topic, then `derive` and `enrich`; inputs: the
    columns that models and learners read (all of them where it is empty); views: whether features are published to
    Redis; learners: what learns from outcomes, and learning: how, and what follows; budget: time from event to
    decision that is promised; skew: how far in the future of its arrival an event may say it happened; ttl: how long
    the state of a silent key is kept, and how long an event waits for its outcome.
    """

    name: str
    event: type[Event]
    features: tuple[Keyed | Tracked | Derive | Enrich, ...]
    model: Artifact | Native
    policy: Policy
    inputs: tuple[str, ...] = ()
    views: bool = True
    outcome: type[Outcome] | None = None
    learners: tuple[Learner, ...] = ()
    learning: Learning | None = None
    budget: str = "10ms"
    skew: str = "5m"
    ttl: str = "90d"

    def __post_init__(self) -> None:
        where = f"workload {self.name!r}"
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", self.name):
            raise DefinitionError(f"{where}: name: expected lower-case letters, digits, - and _, up to 63")
        for name, found, kind in (("event", self.event, Event), ("outcome", self.outcome or Outcome, Outcome)):
            if not (isinstance(found, type) and issubclass(found, kind)):
                expected = f"a subclass of schemas.records.{kind.__name__}"
                raise DefinitionError(f"{where}: {name}: found {found!r}, expected {expected}")
            _as_inherited(f"{where}: {name}", found, kind)
        if not isinstance(self.model, Artifact | Native):
            raise DefinitionError(f"{where}: model: found {self.model!r}, expected one, as pretrained({self.name!r})")
        if isinstance(self.policy, type) or not callable(getattr(self.policy, "decide", None)):
            one = 'one, as thresholds(review=0.5, degraded="review")'
            raise DefinitionError(f"{where}: policy: found {self.policy!r}, expected {one}")
        actions, mine = getattr(self.policy, "actions", None), f"{where}: policy {type(self.policy).__name__}: actions"
        _each(mine, actions, lambda one: isinstance(one, str), '"approve"')
        if not actions:
            raise DefinitionError(f'{mine}: found none, expected all that it takes, as ("approve", "decline")')
        for name in ("budget", "skew", "ttl"):
            try:
                duration(getattr(self, name))
            except DefinitionError as error:
                raise DefinitionError(f"{where}: {name}: {error}") from error
        self._check_learning(where)
        self._check_features(where)

    def _check_learning(self, where: str) -> None:
        _each(f"{where}: learners", self.learners, lambda one: callable(getattr(one, "start", None)), "Logistic()")
        names = [learner.name for learner in self.learners]
        if len(set(names)) < len(names):
            raise DefinitionError(f'{where}: learners: found names {names}, expected different ones, as name="slow"')
        for name in names:
            if name == "refit":
                raise DefinitionError(f"{where}: learners: found the name {name!r}, which refitted trees have")
            if len(f"{self.name}-{name}") > LONGEST:
                long = f"found {self.name}-{name}, the name of its models"
                raise DefinitionError(f"{where}: learners: {long}, expected at most {LONGEST} characters")
        if self.learning is None and not self.learners:
            return
        if not isinstance(self.learning, Learning):
            raise DefinitionError(f"{where}: learners: found {self.learning!r}, expected learning=learning(…)")
        if self.outcome is None:
            raise DefinitionError(f"{where}: learning: expected outcome=, the type of what is learned from")
        chance = self.learning.exploration
        if chance is not None and chance.action not in self.policy.actions:
            known = f"expected an action of the policy: {', '.join(self.policy.actions)}"
            raise DefinitionError(f"{where}: learning: exploration(action={chance.action!r}): {known}")
        if self.learning.horizon > duration(self.ttl):
            days = -(-self.learning.horizon // duration("1d"))
            raise DefinitionError(
                f"{where}: learning: found a horizon longer than ttl={self.ttl!r}: a decision would be forgotten while "
                f'it waits for its outcome; expected ttl="{days}d" or more, or learning(horizon="{self.ttl}")'
            )

    def _check_features(self, where: str) -> None:
        kinds = Keyed | Tracked | Derive | Enrich
        _each(f"{where}: features", self.features, lambda one: isinstance(one, kinds), 'by("card", count("1d"))')
        _each(f"{where}: inputs", self.inputs, lambda one: isinstance(one, str), '"amount"')
        if not self.blocks:
            raise DefinitionError(f'{where}: features: found no by(…), expected one, as by("card", count("1d"))')
        if self.features and not isinstance(self.features[0], Keyed | Tracked):
            raise DefinitionError(f"{where}: features: the first must be a by(…), the key of {self.topics.events}")
        known = f"no such text field of {self.event.__name__}, only {', '.join(self.strings)}"
        entities = [block.entity for block in self.blocks]
        for entity in entities:
            if entity not in self.strings:
                raise DefinitionError(f"{where}: by({entity!r}, …): {known}")
        for read in (feature for feature in self.features if isinstance(feature, Enrich)):
            if read.entity not in entities:
                expected = f"expected an entity of a by(…): {', '.join(entities)}"
                raise DefinitionError(f"{where}: enrich({read.entity!r}, …): {expected}")
        if len({block.entity for block in self.blocks}) < len(self.blocks):
            raise DefinitionError(f"{where}: features: two by(…) of the same entity; put all its folds into one")

    @property
    def follows(self) -> bool:
        """Whether its jobs take up the champion of the registry: not where the state of a stage is the model."""
        return self.learning is not None or isinstance(self.model, Artifact)

    @cached_property
    def blocks(self) -> tuple[Keyed | Tracked, ...]:
        """The `by` and `track` blocks, in order."""
        return tuple(feature for feature in self.features if isinstance(feature, Keyed | Tracked))

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Numeric fields of an event, `id` and `at` left out."""
        found = []
        for field in self._described:
            options = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
            optional = any(isinstance(option, msgspec.inspect.NoneType) for option in options)
            numbers = sum(isinstance(one, msgspec.inspect.IntType | msgspec.inspect.FloatType) for one in options)
            if numbers:
                if isinstance(field.default, str) or numbers + optional < len(options):  # msgspec checks no default
                    expected = "expected a number and nothing else, as float or float | None = None"
                    raise DefinitionError(f"workload {self.name!r}: event field {field.name!r}: {expected}")
                found.append(Field(field.name, optional, 0))
            mappings = (one for one in options if isinstance(one, msgspec.inspect.DictType))
            found += [Field(field.name, True, self._room(field.name, one)) for one in mappings]
        return tuple(found)

    def _room(self, name: str, type: msgspec.inspect.DictType) -> int:
        where = f"workload {self.name!r}: event field {name!r}"
        number = msgspec.inspect.IntType | msgspec.inspect.FloatType
        if not isinstance(type.key_type, msgspec.inspect.StrType) or not isinstance(type.value_type, number):
            raise DefinitionError(f"{where}: expected a mapping from names to numbers, as dict[str, float]")
        if not type.max_length or type.max_length > 64:
            raise DefinitionError(f"{where}: expected at most 64 entries, stated as Meta(max_length=16)")
        return type.max_length

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numeric columns of an event."""
        return tuple(name for field in self.fields for name in field.columns)

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """Text fields of an event, `id` left out: its possible entities."""
        return tuple(f.name for f in self._described if isinstance(f.type, msgspec.inspect.StrType))

    def kind(self, name: str) -> str | None:
        """What a field of an event is that is no number, such as "bool"; None where there is no such field."""
        kinds = {field.name: type(field.type).__name__ for field in self._described}
        return kinds[name].removesuffix("Type").lower() if name in kinds else None

    @cached_property
    def _described(self) -> tuple[msgspec.inspect.Field, ...]:
        info = msgspec.inspect.type_info(self.event)
        assert isinstance(info, msgspec.inspect.StructType)
        return tuple(field for field in info.fields if field.name not in ("id", "at"))

    @property
    def topics(self) -> Topics:
        """Names of the topics of the workload."""
        return Topics(self.name)


def _as_inherited(where: str, found: type[msgspec.Struct], kind: type[msgspec.Struct]) -> None:
    """DefinitionError where a field that `found` has from `kind` is of another type, or in wider bounds: whatever reads
    records relies on those, and would fail on the first that is not so."""
    own, inherited = (cast(msgspec.inspect.StructType, msgspec.inspect.type_info(one)).fields for one in (found, kind))
    types = {field.encode_name: field.type for field in own}
    for base in inherited:
        given = types.get(base.name)
        same = type(given) is type(base.type)
        for limit, sign in (("min_length", 1), ("ge", 1), ("max_length", -1), ("le", -1)):
            least, stated = getattr(base.type, limit, None), getattr(given, limit, None)
            same &= least is None or (stated is not None and stated * sign >= least * sign)
        if not same:
            raise DefinitionError(
                f"{where}: field {base.name!r}: found {given}, expected it as {kind.__name__} has it, {base.type}; "
                f"leave it out of {found.__name__}, or narrow those bounds"
            )


def _each(where: str, found: object, good: Callable[[object], bool], one: str) -> None:
    """DefinitionError where `found` is no tuple of what is `good`, such as `one`."""
    if not isinstance(found, tuple | list):
        raise DefinitionError(f"{where}: found {found!r}, expected a tuple, as ({one},): mind the comma")
    for value in found:
        if isinstance(value, type) or not good(value):
            raise DefinitionError(f"{where}: found {value!r} in it, expected such as {one}")
