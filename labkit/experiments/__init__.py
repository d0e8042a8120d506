"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.atlas import Atlas, AtlasError
from labkit.experiments.compare import Comparison, ComparisonResult, Cost
from labkit.experiments.evaluate import Evaluation, Protocol, evaluate, probe, real_against_real
from labkit.experiments.measures import Measures, memorisation
from labkit.experiments.quality import Measured, Request, codec_of, measure
from labkit.experiments.rerun import Rerun
from labkit.experiments.seeds import Outcome, bands, over_seeds, ship, ship_run, shipped, shipped_run
from labkit.experiments.spread import geometry_table, probe_table, similarity_table
from labkit.experiments.statistics import paired_differences
from labkit.experiments.sweep import Sweep, grid, sweep

__all__ = [
    "Atlas",
    "AtlasError",
    "Comparison",
    "ComparisonResult",
    "Cost",
    "Evaluation",
    "Measured",
    "Measures",
    "Outcome",
    "Protocol",
    "Request",
    "Rerun",
    "Sweep",
    "bands",
    "codec_of",
    "evaluate",
    "geometry_table",
    "grid",
    "measure",
    "memorisation",
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
