"""Metrics: the geometry of features, probes of them, and the quality of images on given features."""

from labkit.metrics.classifier import CLASSIFIERS, Classifier, DigitsClassifier, LettersClassifier
from labkit.metrics.extractors import ClassifierFeatures, Extracted, Extractor, Inception, Pixels, extract
from labkit.metrics.geometry import (
    alignment,
    anisotropy,
    cka_table,
    distance_density,
    effective_rank,
    feature_norm,
    geometry,
    linear_cka,
    mean_pairwise_distance,
    uniformity,
)
from labkit.metrics.gradients import Conflict, gradient_conflict
from labkit.metrics.images import (
    PixelPca,
    class_agreement,
    frechet_distance,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from labkit.metrics.likelihood import FeatureLikelihood
from labkit.metrics.probes import knn_accuracy, linear_probe_accuracy, neighbour_purity
from labkit.metrics.table import BASE_LOSSES, METRICS, MetricInfo, metric, minus, three_digits
from labkit.metrics.times import by_time

__all__ = [
    "distance_density",
    "BASE_LOSSES",
    "CLASSIFIERS",
    "METRICS",
    "Classifier",
    "ClassifierFeatures",
    "Conflict",
    "DigitsClassifier",
    "Extracted",
    "Extractor",
    "FeatureLikelihood",
    "Inception",
    "LettersClassifier",
    "MetricInfo",
    "PixelPca",
    "Pixels",
    "alignment",
    "anisotropy",
    "by_time",
    "cka_table",
    "class_agreement",
    "effective_rank",
    "extract",
    "feature_norm",
    "frechet_distance",
    "frechet_of_moments",
    "geometry",
    "gradient_conflict",
    "inception_score",
    "kernel_distance",
    "knn_accuracy",
    "linear_cka",
    "linear_probe_accuracy",
    "mean_pairwise_distance",
    "metric",
    "minus",
    "moments",
    "neighbour_purity",
    "precision_recall",
    "three_digits",
    "uniformity",
]
