"""Experiments: several runs, one protocol of measurement, one tidy table."""

from labkit.experiments.compare import Comparison
from labkit.experiments.evaluate import Evaluation, Protocol, evaluate, real_against_real

__all__ = ["Comparison", "Evaluation", "Protocol", "evaluate", "real_against_real"]
