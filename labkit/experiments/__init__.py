"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.compare import Comparison, ComparisonResult, Cost
from labkit.experiments.evaluate import Evaluation, Protocol, evaluate, probe, real_against_real
from labkit.experiments.seeds import bands, over_seeds, ship, shipped

__all__ = [
    "Comparison",
    "ComparisonResult",
    "Cost",
    "Evaluation",
    "Protocol",
    "bands",
    "evaluate",
    "over_seeds",
    "probe",
    "real_against_real",
    "ship",
    "shipped",
]
