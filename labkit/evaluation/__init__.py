"""The one way to judge a run, for notebooks, command line, sweep and atlas alike."""

from labkit.evaluation.evaluate import Evaluation, StoredEvaluation, codec_of, evaluate, evaluate_run
from labkit.evaluation.evaluator import REAL, Evaluator, Metric, Real, evaluator_of, memorisation
from labkit.evaluation.network import block_geometry, block_probes, losses
from labkit.evaluation.settings import EvaluationConfig

__all__ = [
    "REAL",
    "Evaluation",
    "EvaluationConfig",
    "Evaluator",
    "Metric",
    "Real",
    "StoredEvaluation",
    "block_geometry",
    "block_probes",
    "codec_of",
    "evaluate",
    "evaluate_run",
    "evaluator_of",
    "losses",
    "memorisation",
]
