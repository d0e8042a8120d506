"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.atlas import Atlas, Outcome
from labkit.experiments.compare import Comparison, ComparisonResult, Cost
from labkit.experiments.measures import Measures
from labkit.experiments.rerun import Rerun
from labkit.experiments.shipped import shipped_run
from labkit.experiments.spread import geometry_table, probe_table, similarity_table
from labkit.experiments.statistics import paired_differences
from labkit.experiments.sweep import Sweep, grid, sweep

__all__ = [
    "Atlas",
    "Comparison",
    "ComparisonResult",
    "Cost",
    "Measures",
    "Outcome",
    "Rerun",
    "Sweep",
    "geometry_table",
    "grid",
    "paired_differences",
    "probe_table",
    "shipped_run",
    "similarity_table",
    "sweep",
]
