"""Quality of images, measured on features that the caller names.

A Fréchet distance means nothing without its features and its sample count, so beside every one the lab shows two
controls: real images against real images at the same count, and the same distance on pixel-PCA features, which share
nothing with any network.
"""

from jaxtyping import Float, Int
from torch import Tensor

from labkit.checks import require
from labkit.metrics.figures import frechet_of_moments, moments
from labkit.ops import principal_axes


def frechet_distance(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of two feature sets, in float64.

    It is biased upwards when n or m is not much larger than f: compare only at equal counts.
    """
    require(
        a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1],
        "features",
        (tuple(a.shape), tuple(b.shape)),
        "give two matrices (n, F) and (m, F) with the same number of columns",
    )
    # One NaN in a covariance takes the eigenvalue routine, and with it the whole kernel, down.
    require(bool(a.isfinite().all() and b.isfinite().all()), "features", "NaN or infinite", "give finite features")
    require(min(len(a), len(b)) >= 2, "features", (len(a), len(b)), "give at least 2 rows of each")
    return frechet_of_moments(*moments(a), *moments(b))


def class_agreement(predicted: Int[Tensor, " n"], wanted: Int[Tensor, " n"]) -> float:
    """Share in [0, 1] of samples that a classifier sees as the class that was asked for."""
    require(
        predicted.shape == wanted.shape,
        "predicted",
        tuple(predicted.shape),
        f"it must match wanted, {tuple(wanted.shape)}",
    )
    return (predicted == wanted).double().mean().item()


class PixelPca:
    """Projection on the first ``components`` principal axes of the pixels of given images."""

    def __init__(self, x: Float[Tensor, "n c h w"], components: int = 32) -> None:
        self.mean, self.axes = principal_axes(x.flatten(1), components)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n components"]:
        return (x.flatten(1).double() - self.mean) @ self.axes.T
