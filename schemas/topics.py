"""Names of the topics of a workload, in one place."""

from dataclasses import dataclass

MODELS = "millrace.models"


@dataclass(frozen=True)
class Topics:
    """The topics of workload `name`; what travels on each is listed in the README."""

    name: str

    @property
    def events(self) -> str:
        """What users publish, keyed by entity."""
        return f"{self.name}.events"

    @property
    def outcomes(self) -> str:
        """The truth about events, keyed by event id."""
        return f"{self.name}.outcomes"

    @property
    def decisions(self) -> str:
        """One decision an event, keyed by entity."""
        return f"{self.name}.decisions"

    @property
    def examples(self) -> str:
        """Served feature rows with their outcomes, keyed by entity."""
        return f"{self.name}.examples"

    @property
    def deadletters(self) -> str:
        """Records that could not be decided: original bytes, reason and coordinates as headers."""
        return f"{self.name}.deadletters"

    @property
    def signals(self) -> str:
        """What an operator wants to be told."""
        return f"{self.name}.signals"

    def all(self) -> tuple[str, ...]:
        """Every topic of the workload."""
        return (self.events, self.outcomes, self.decisions, self.examples, self.deadletters, self.signals)
