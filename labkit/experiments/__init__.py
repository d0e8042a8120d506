"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.compare import Comparison, ComparisonResult, Cost
from labkit.experiments.evaluate import Evaluation, Protocol, evaluate, probe, real_against_real
from labkit.experiments.quality import Measured, Request, codec_of, measure
from labkit.experiments.seeds import Outcome, bands, over_seeds, ship, ship_run, shipped, shipped_run
from labkit.experiments.spread import geometry_table, probe_table, similarity_table
from labkit.experiments.statistics import paired_differences
from labkit.experiments.sweep import Sweep, grid, sweep

__all__ = [
    "Comparison",
    "ComparisonResult",
    "Cost",
    "Evaluation",
    "Measured",
    "Outcome",
    "Protocol",
    "Request",
    "Sweep",
    "bands",
    "codec_of",
    "evaluate",
    "geometry_table",
    "grid",
    "measure",
    "over_seeds",
    "paired_differences",
    "probe_table",
    "probe",
    "real_against_real",
    "ship",
    "ship_run",
    "shipped",
    "shipped_run",
    "similarity_table",
    "sweep",
]
