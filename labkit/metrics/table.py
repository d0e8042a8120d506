"""One table of all metrics: the title of each in figures and sentences, and which way it gets better.

A new metric needs its code and a line here. Losses and other numbers of the training log are metrics, too.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """Title, unit, direction and scale of a metric."""

    title: str
    unit: str = ""
    """Unit, or a few words on what its numbers mean."""
    direction: int = 0
    """1 if more is better, −1 if less is, 0 if neither, as for size and shape of features."""
    log: bool = False
    """Whether a logarithmic axis suits it, since runs differ by factors."""
    percent: bool = False
    """Whether it is a share in [0, 1]."""

    @property
    def label(self) -> str:
        """Title and unit, for a plot or an axis."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


BASE_LOSSES = {
    "velocity": MetricInfo("velocity loss", "mean squared error", -1),
    "noise": MetricInfo("noise loss", "mean squared error", -1),
    "score": MetricInfo("score loss", "mean squared error times σ²", -1),
    "average_velocity": MetricInfo("average velocity's loss", "mean squared error", -1),
}
"""The base loss of each kind of model."""
METRICS = BASE_LOSSES | {
    "total": MetricInfo("total loss", "", -1),
    "dispersive": MetricInfo("Dispersive Loss"),
    "contrastive": MetricInfo("contrastive loss"),
    "repa": MetricInfo("REPA loss", "−cos(teacher, projected)", -1),
    "gradient_cosine": MetricInfo("cosine with the base gradient"),
    "gradient_ratio": MetricInfo("gradient norm over the base's", log=True),
    "feature_norm": MetricInfo("feature norm", "‖z‖/√P", log=True),
    "mean_pairwise_distance": MetricInfo("spread", "mean distance/√P", log=True),
    "effective_rank": MetricInfo("effective rank"),
    "uniformity": MetricInfo("uniformity"),
    "anisotropy": MetricInfo("mean cosine of two samples"),
    "alignment": MetricInfo("alignment of two views"),
    "knn": MetricInfo("k-NN accuracy", "", 1, percent=True),
    "linear_probe": MetricInfo("linear probe accuracy", "", 1, percent=True),
    "neighbour_purity": MetricInfo("neighbours of the same class", "", 1, percent=True),
    "frechet": MetricInfo("Fréchet distance", "classifier features", -1),
    "frechet_pixels": MetricInfo("Fréchet distance of pixels", "pixel PCA", -1),
    "fid": MetricInfo("FID", "Inception features", -1),
    "kernel_distance": MetricInfo("kernel distance", "as KID", -1),
    "sfid": MetricInfo("sFID", "Inception features by place", -1),
    "kid": MetricInfo("KID", "Inception features", -1),
    "inception_score": MetricInfo("Inception Score", "", 1),
    "precision": MetricInfo("precision", "", 1, percent=True),
    "recall": MetricInfo("recall", "", 1, percent=True),
    "agreement": MetricInfo("recognised as requested", "", 1, percent=True),
    "memorisation": MetricInfo("near training images", "", -1, percent=True),
    "likelihood_divergence": MetricInfo("feature likelihood divergence", "classifier features", -1),
    "loss_train": MetricInfo("loss on training images", "", -1),
    "loss_held_out": MetricInfo("loss on held-out images", "", -1),
    "loss_gap": MetricInfo("held-out minus training loss", "", -1),
}


def three_digits(value: float, sign: str = "") -> str:
    """Three significant digits, zeros included, or all digits before the point: '0.950', '1.20', '211', '1,722'.

    Args:
        value: the number.  sign: "+" to show the sign of positive numbers as well.
    """
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}#.3g}".rstrip(".")


def minus(text: str) -> str:
    """Numbers with minus signs in place of hyphens; those within words, names and ranges stay."""
    return re.sub(r"(?<![^\W_])-(?=\.?\d|inf)|(?<=\de)-(?=\d)", "−", text)


def metric(name: str) -> MetricInfo:
    """The entry of a metric under any name it is logged by.

    ``block1.feature_norm`` and ``repa.gradient_cosine`` have the entry of their last part, ``velocity.t3`` of its
    first, ``frechet_excess`` of the distance. Any other name is its own title, with no direction.
    """
    name = name.removesuffix("_excess")
    parts = [part for part in reversed(name.split(".")) if part in METRICS]
    return METRICS[parts[0]] if parts else MetricInfo(name)
