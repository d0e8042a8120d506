"""Eight sabotaged Dispersive Losses for notebook 11: each trains without an error, and its curve looks plausible.

    SABOTAGES["C"].loss(z, tau=0.5)      in place of ``labkit.dispersive_loss(z, tau=0.5)``
    SABOTAGES["C"].options               diagnoses to choose from, the right one among them

They are mistakes that others made in code that was published or nearly so. Letters, so that no name gives one away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.losses import dispersive_loss
from labkit.ops import off_diagonal


@dataclass(frozen=True)
class Sabotage:
    """A wrong loss, and what a reader has to find out."""

    letter: str
    loss: Callable[..., Tensor]
    """(z, tau) → one number, as ``dispersive_loss``."""
    diagnosis: str
    decoys: tuple[str, ...]
    """Plausible diagnoses that are wrong."""
    clue: str
    """What gives it away: a curve, a law or a tap. Shown with the answer."""

    @property
    def options(self) -> list[str]:
        """All diagnoses, in an order that says nothing."""
        return sorted((self.diagnosis, *self.decoys))


def _flat(z: Tensor) -> Tensor:
    return z.flatten(1).float()


def _sq_distances(z: Tensor) -> Tensor:
    z = _flat(z)
    return (z[:, None] - z[None]).square().sum(dim=-1) if z.numel() * len(z) < 2**22 else torch.cdist(z, z).square()


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.flatten().logsumexp(0) - torch.tensor(float(x.numel())).log()


def _detached(z: Tensor, tau: float = 0.5) -> Tensor:
    return dispersive_loss(z.detach(), tau=tau)


def _pooled(z: Tensor, tau: float = 0.5) -> Tensor:
    return dispersive_loss(z.mean(dim=1), tau=tau)


def _undivided(z: Tensor, tau: float = 0.5) -> Tensor:
    return _log_mean_exp(-_sq_distances(z) / tau)


def _unsquared(z: Tensor, tau: float = 0.5) -> Tensor:
    # A root of 0 has an infinite slope: the distance of a sample from itself gets a little room.
    return _log_mean_exp(-(_sq_distances(z) / _flat(z).shape[1] + 1e-12).sqrt() / tau)


def _flipped(z: Tensor, tau: float = 0.5) -> Tensor:
    return -dispersive_loss(z, tau=tau)


def _masked(z: Tensor, tau: float = 0.5) -> Tensor:
    logits = off_diagonal(-_sq_distances(z) / (_flat(z).shape[1] * tau))
    return logits.logsumexp(0) - 2 * torch.tensor(float(len(z))).log()


def _clamped(z: Tensor, tau: float = 0.5) -> Tensor:
    return _log_mean_exp((-_sq_distances(z) / (_flat(z).shape[1] * tau)).clamp_min(-1.0))


def _relative(z: Tensor, tau: float = 0.5) -> Tensor:
    distances = _sq_distances(z)
    return _log_mean_exp(-distances / distances.max().clamp_min(1e-12) / tau)


_ALL = (
    Sabotage(
        "A",
        _detached,
        "No gradient flows: the features are detached, or come from a forward pass under no_grad.",
        (
            "λ is far too large.",
            "The features are read from the last block instead of an early one.",
            "The batch is too small to have any negatives.",
        ),
        "Network, samples and norms are those of the baseline, bit for bit, and the gradient ratio is exactly 0. A "
        "logged loss proves only that someone computes it.",
    ),
    Sabotage(
        "B",
        _undivided,
        "The distance is not divided by P: the exponentials are all 0 but those of the self-pairs.",
        ("The loss has finished its work: all samples are far apart.", "τ is missing.", "The sign is flipped."),
        "The loss stands on its floor −log B from the very first step, before anything was trained, while the features "
        "are as small as the baseline's. The law that fails: repeating all features should change nothing.",
    ),
    Sabotage(
        "C",
        _pooled,
        "The tokens are averaged before the distance is taken.",
        (
            "Each token is treated as a sample of its own.",
            "The features are divided by their length.",
            "The self-pairs are left out.",
        ),
        "The mean over the tokens spreads, and what remains after the mean is taken off does not. The law that fails: "
        "adding numbers that cancel over the tokens changes the features, and not this loss.",
    ),
    Sabotage(
        "D",
        _flipped,
        "The sign is flipped: samples are pulled together.",
        ("λ is 0.", "The learning rate is too high.", "The covariance variant runs instead of InfoNCE-L2."),
        "The total loss falls nicely, and so does the logged term, but the spread shrinks below the baseline's, and "
        "where the features agree the true loss is at its *largest* value, 0.",
    ),
    Sabotage(
        "E",
        _masked,
        "The self-pairs are taken out of the sum, which is still divided by B².",
        (
            "The features are normalised first.",
            "The log stands inside the mean.",
            "The noise level t is the same for all samples.",
        ),
        "The curve falls through the floor −log B and does not stop, since it has none without the self-pairs; and for "
        "identical features the loss is log(1 − 1/B) where the law says 0.",
    ),
    Sabotage(
        "F",
        _unsquared,
        "The distance is not squared.",
        (
            "τ is twice as large as configured.",
            "The distance is not divided by P.",
            "The diagonal of the distance matrix is not zero.",
        ),
        "It works, only otherwise: near pairs push as hard as far ones, so the force curve of notebook 02 starts at "
        "its peak instead of at 0. The law that fails: with twice the features and four times τ the loss should "
        "stay.",
    ),
    Sabotage(
        "G",
        _clamped,
        "The exponents are clamped: a pair that is a little apart gets no gradient any more.",
        (
            "λ is warmed up over the whole training.",
            "The features are computed in bfloat16.",
            "The loss has reached −log B.",
        ),
        "The loss falls quickly and then stays level, but far above −log B, and on that plateau its gradient is "
        "exactly 0. A floor at another height than −log B is never the right one.",
    ),
    Sabotage(
        "H",
        _relative,
        "The distances are divided by the largest one of the batch.",
        (
            "The cosine variant runs instead of InfoNCE-L2.",
            "The learning rate decays too early.",
            "The features come from a block after the final norm.",
        ),
        "The loss hardly moves, whatever the features do, and their norm has no reason to grow. The law that fails: "
        "doubling the features should bring the loss nearer to its floor, and changes nothing here.",
    ),
)
SABOTAGES: dict[str, Sabotage] = {each.letter: each for each in _ALL}
"""The sabotaged losses by letter."""
