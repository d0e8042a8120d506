"""Feature likelihood divergence: how well samples describe images that no one has seen (Jiralerspong et al. 2023).

Symbols: x_j the features of m samples, d numbers each, after standardisation by mean and deviation of the held-out
images. A mixture of m Gaussians stands on the samples, each with a variance of its own:

    p_σ(z) = 1/m Σ_j N(z; x_j, σ_j² I)

The variances are fitted to the *training* images, then the *held-out* images are judged:

    FLD = 100/d · (−mean log p_σ(held-out) + mean log p_ideal(held-out))

A sample that copies a training image earns a tiny variance there and so describes nothing around it: a model that
copies cannot please, however good its Fréchet distance. ``p_ideal`` is the same with one half of the training images
as the samples and the other half to fit, so a model as good as new real images has about 0; less is better.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import require
from labkit.distances import cross_sq_distances
from labkit.runtime import Purpose, generator

RATE, EPOCHS = 0.5, 50  # of Adam, on the logarithms of the variances, as published
SHRINK = 0.9  # distances to the mean of the training images, in the broad component that only the fit has
MOST_FITTED = 5_000  # training features to which variances are fitted
LEAST, MOST = -40.0, 20.0  # bounds of log σ²: copies would take it to −∞


class FeatureLikelihood:
    """The divergence of any samples from given training and held-out features; the ideal is computed once.

    Args:
        train: features of the training images, at least 4; of more than ``MOST_FITTED``, as many are drawn.
        held_out: of images that were not trained on.

    Raises:
        ConfigError: different widths, too few rows, or features that are not finite.
    """

    def __init__(self, train: Float[Tensor, "n d"], held_out: Float[Tensor, "k d"]) -> None:
        self.width, self._ideals = train.shape[-1], dict[int, float]()
        for name, z, least in (("train", train, 4), ("held_out", held_out, 2)):
            self._check(name, z, least)
        self._mean, self._std = held_out.double().mean(dim=0), held_out.double().std(dim=0).clamp_min(1e-12)
        order = torch.randperm(len(train), generator=generator(0, Purpose.SUBSETS)).to(train.device)
        self._train, self._held_out = self._standardised(train[order[:MOST_FITTED]]), self._standardised(held_out)

    def __call__(self, samples: Float[Tensor, "m d"]) -> float:
        """FLD of samples, in hundredths of a nat per dimension; less is better."""
        self._check("samples", samples, 1)
        half = min(len(samples), len(self._train) // 2)
        if half not in self._ideals:
            self._ideals[half] = _surprise(self._train[:half], self._train[half:], self._held_out)
        return 100 * (_surprise(self._standardised(samples), self._train, self._held_out) - self._ideals[half])

    def _check(self, name: str, z: Tensor, least: int) -> None:
        fit = z.ndim == 2 and z.shape[1] == self.width and len(z) >= least and bool(z.isfinite().all())
        require(fit, name, tuple(z.shape), f"give at least {least} rows of {self.width} finite features")

    def _standardised(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (z.double() - self._mean) / self._std


def _surprise(centres: Float[Tensor, "m d"], fitted_to: Float[Tensor, "n d"], judged: Float[Tensor, "k d"]) -> float:
    """−mean log p_σ(judged) / d of Gaussians on ``centres`` whose variances are fitted to other features."""
    width, distances = centres.shape[1], cross_sq_distances(fitted_to, centres)
    # The start is the best variance for the nearest of the fitted features alone.
    log_var = ((distances.amin(dim=0) + 1e-3) / width).log().requires_grad_()
    broad = torch.zeros(1, dtype=log_var.dtype, device=log_var.device, requires_grad=True)
    to_mean = SHRINK**2 * cross_sq_distances(fitted_to, fitted_to.mean(dim=0, keepdim=True))
    optimizer = torch.optim.Adam([log_var, broad], lr=RATE)
    for _ in range(EPOCHS):
        mixture = _mixture(_log_densities(distances, log_var, width))
        # Without a broad component, a feature far from all centres would rule the fit.
        loss = -torch.logaddexp(mixture, _log_densities(to_mean, broad, width)[:, 0]).mean() / width
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log_var.data.clamp_(LEAST, MOST)
    with torch.no_grad():
        densities = _log_densities(cross_sq_distances(judged, centres), log_var, width)
        return -_mixture(densities).mean().item() / width


def _mixture(densities: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """log of the mean over the Gaussians."""
    return densities.logsumexp(dim=1) - math.log(densities.shape[1])


def _log_densities(
    sq_distances: Float[Tensor, "n m"], log_var: Float[Tensor, " m"], width: int
) -> Float[Tensor, "n m"]:
    """log N(z_i; x_j, σ_j² I)."""
    return -0.5 * (sq_distances / log_var.exp() + width * (log_var + math.log(2 * math.pi)))
