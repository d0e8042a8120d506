"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.compare import Comparison, ComparisonResult, Cost
from labkit.experiments.evaluate import Evaluation, Protocol, evaluate, probe, real_against_real
from labkit.experiments.seeds import Outcome, bands, over_seeds, ship, ship_run, shipped, shipped_run

__all__ = [
    "Comparison",
    "ComparisonResult",
    "Cost",
    "Evaluation",
    "Outcome",
    "Protocol",
    "bands",
    "evaluate",
    "over_seeds",
    "probe",
    "real_against_real",
    "ship",
    "ship_run",
    "shipped",
    "shipped_run",
]
