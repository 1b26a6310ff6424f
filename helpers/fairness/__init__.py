"""Bias: measured (``counterfactuals`` makes pairs, ``gaps`` compares groups) and mitigated
(``mitigation``)."""

from helpers.fairness import counterfactuals, mitigation
from helpers.fairness.gaps import (
    RATES,
    Estimate,
    counterfactual_gap,
    group_gaps,
    group_rates,
    mean_estimate,
)

__all__ = [
    "RATES",
    "Estimate",
    "counterfactual_gap",
    "counterfactuals",
    "group_gaps",
    "group_rates",
    "mean_estimate",
    "mitigation",
]
