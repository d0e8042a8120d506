"""Measurements: the geometry of features, and the quality of images on given features."""

from labkit.metrics.classifier import DigitsClassifier
from labkit.metrics.geometry import effective_rank, feature_norm, geometry, mean_pairwise_distance, uniformity
from labkit.metrics.gradients import Conflict, gradient_conflict
from labkit.metrics.images import PixelPca, class_agreement, frechet_distance
from labkit.metrics.times import by_time

__all__ = [
    "Conflict",
    "DigitsClassifier",
    "PixelPca",
    "by_time",
    "class_agreement",
    "effective_rank",
    "feature_norm",
    "frechet_distance",
    "geometry",
    "gradient_conflict",
    "mean_pairwise_distance",
    "uniformity",
]
