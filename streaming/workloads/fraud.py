"""Card fraud: is this transaction one that its card's owner made?

The first fifteen features are those of Reproducible Machine Learning for Credit Card Fraud Detection, chapter 3;
the other twelve follow what became known of the card and of the terminal, outcome by outcome.
"""

from models import Artifact, linear, pretrained
from models.exploration import exploration
from models.learners import AdaptiveForest, Logistic
from models.policy import thresholds
from models.rules import Costs, evaluation, promotion
from operators import (
    by,
    count,
    label_decay,
    label_max,
    label_mean,
    label_rate,
    label_run,
    label_run_age,
    label_since,
    label_smoothed,
    label_std,
    mean,
    since,
)
from schemas.fraud import FraudOutcome, Transaction
from streaming.learning import learning
from streaming.workload import Workload, derive

WINDOWS = ("1d", "7d", "30d")

BOOK = (
    "amount", "weekend", "night",
    "card_count_1d", "card_count_7d", "card_count_30d",
    "card_amount_mean_1d", "card_amount_mean_7d", "card_amount_mean_30d",
    "terminal_count_1d", "terminal_count_7d", "terminal_count_30d",
    "terminal_label_rate_1d", "terminal_label_rate_7d", "terminal_label_rate_30d",
)  # fmt: skip

STREAMING = (
    "card_amount_label_mean_false", "amount_z", "amount_to_mean", "amount_to_max",
    "card_label_since_true", "card_since",
    "terminal_label_since_true", "terminal_label_run", "terminal_label_run_age", "terminal_label_since_false",
    "terminal_label_decay_14d", "terminal_label_smoothed",
)  # fmt: skip


def rule() -> Artifact:
    """What one can start with before anything was learned, by hand: dearer than the card's payments of a week."""
    weights, usual = {"amount": 0.04, "card_amount_mean_7d": -0.04}, {"amount": 53.0, "card_amount_mean_7d": 53.0}
    return linear("fraud-rule", weights, bias=-4.0, baseline=usual)


def fraud(
    model: str = "fraud",
    review: float = 0.2,
    decline: float = 0.7,
    learn: bool = False,
    explore: float = 0.0,
    compile: str = "1d",
    share: float = 1.0,
) -> Workload:
    """The workload: `model` is a shipped model, the folder of one or "rule"; `review`, `decline` are thresholds of it;
    with `learn` it learns from outcomes, those of `share` of what it approves, makes models of that every `compile`,
    and decides `explore` of what it would decline by chance."""
    return Workload(
        name="fraud",
        event=Transaction,
        outcome=FraudOutcome,
        features=(
            by(
                "card",
                count(*WINDOWS), mean("amount", *WINDOWS), since(),
                label_mean("amount"), label_std("amount"), label_max("amount"), label_since(),
            ),
            by(
                "terminal",
                count(*WINDOWS, delay="7d"), label_rate(*WINDOWS, delay="7d"),
                label_since(of=True), label_run(), label_run_age(), label_since(of=False),
                label_decay("14d"), label_smoothed(prior=0.01, weight=10),
            ),
            derive(
                weekend=lambda f: f.weekday >= 5,
                night=lambda f: f.hour <= 6,
                amount_z=lambda f: (f.amount - f.card_amount_label_mean_false) / f.card_amount_label_std_false,
                amount_to_mean=lambda f: f.amount / f.card_amount_label_mean_false,
                amount_to_max=lambda f: f.amount / f.card_amount_label_max_false,
            ),
        ),
        inputs=BOOK + STREAMING,
        model=rule() if model == "rule" else pretrained(model),
        policy=thresholds(review=review, decline=decline, degraded="review"),
        learners=(Logistic(rate=0.002), AdaptiveForest(trees=20, negatives=0.1, features=12)) if learn else (),
        learning=learning(
            horizon="30d", presume=False, share=share, compile=compile, amount="amount", segment="night",
            evaluation=evaluation(costs=Costs(false_alarm=5.0, miss=1.0, by_amount=True, threshold=decline)),
            promotion=promotion(settle="7d"),
            exploration=exploration(share=explore, salt="fraud") if explore else None,
        ) if learn else None,
        budget="10ms",
    )  # fmt: skip
