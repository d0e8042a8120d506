"""Measurements: the geometry of features, and the quality of images on given features."""

from labkit.metrics.classifier import DigitsClassifier
from labkit.metrics.geometry import effective_rank, feature_norm, geometry, mean_pairwise_distance, uniformity
from labkit.metrics.images import PixelPca, class_agreement, frechet_distance

__all__ = [
    "DigitsClassifier",
    "PixelPca",
    "class_agreement",
    "effective_rank",
    "feature_norm",
    "frechet_distance",
    "geometry",
    "mean_pairwise_distance",
    "uniformity",
]
