"""Records of the fraud workload: card transactions and the chargebacks that come days later."""

from schemas.records import Event, Identifier, Outcome


class Transaction(Event, frozen=True, gc=False):
    """A card payment at a terminal; `amount` in the currency of the card."""

    card: Identifier
    terminal: Identifier
    amount: float


class FraudOutcome(Outcome, frozen=True, gc=False):
    """Whether a transaction was fraudulent (`label` true) or legitimate."""
