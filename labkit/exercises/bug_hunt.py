"""Eight sabotaged Dispersive Losses for notebook 11: each trains without an error, and its curve looks plausible.

    SABOTAGES["C"].loss(z, tau=0.5)      in place of ``labkit.dispersive_loss(z, tau=0.5)``
    SABOTAGES["C"].options               diagnoses to choose from, the right one among them

Others made these mistakes in code that was published, or nearly so. They have letters, so that no name gives one away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from labkit.exercises.losses import EXERCISES

LEAN = (
    "z.flatten(1) → z.flatten(1).float(); (z[:, None] - z).square().mean(dim=-1) → "
    'torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square() / z.shape[1]'
)
"""Edit of Algorithm 1 that leaves its numbers and saves memory: no array of B × B × P."""


@dataclass(frozen=True)
class Sabotage:
    """A wrong loss, and what a reader has to find out."""

    edit: str
    """What is wrong, as an edit of Algorithm 1, "old → new"."""
    diagnosis: str
    decoys: tuple[str, ...]
    """Plausible diagnoses that are wrong."""
    clue: str
    """What gives it away: a curve, a law or a tap. Shown with the answer."""

    @cached_property
    def loss(self) -> Callable[..., Tensor]:
        """(z, tau) → one number, as ``dispersive_loss``."""
        return EXERCISES["dispersive_loss"].wrong(LEAN, self.edit)

    @property
    def options(self) -> list[str]:
        """All diagnoses, in an order that says nothing."""
        return sorted((self.diagnosis, *self.decoys))


SABOTAGES: dict[str, Sabotage] = {
    "A": Sabotage(
        "z.flatten(1) → z.detach().flatten(1)",
        "No gradient flows: the features are detached, or come from a forward pass under no_grad.",
        (
            "λ is far too large.",
            "The features are read from the last block instead of an early one.",
            "The batch is too small to have any negatives.",
        ),
        "Network, samples and norms are those of the baseline, bit for bit, and the gradient ratio is exactly 0. A "
        "logged loss proves only that someone computes it.",
    ),
    "B": Sabotage(
        "/ z.shape[1] →",
        "The distance is not divided by P: the exponentials are all 0, except those of the self-pairs.",
        ("The loss has finished its work: all samples are far apart.", "τ is missing.", "The sign is flipped."),
        "The loss stands on its floor −log B from the very first step, before anything was trained, while the features "
        "are as small as the baseline's. The law that fails: repeating every feature should change nothing.",
    ),
    "C": Sabotage(
        "z.flatten(1) → z.mean(dim=1)",
        "The tokens are averaged before the distance is taken.",
        (
            "Each token is treated as a sample of its own.",
            "The features are divided by their length.",
            "The self-pairs are left out.",
        ),
        "The mean over the tokens spreads, but what is left when you subtract that mean does not. The law that fails: "
        "adding numbers that sum to 0 over the tokens should change the loss, and does not.",
    ),
    "D": Sabotage(
        "return torch.log → return -torch.log",
        "The sign is flipped: samples are pulled together.",
        ("λ is 0.", "The learning rate is too high.", "The covariance variant runs instead of InfoNCE-L2."),
        "The total loss falls nicely, and so does the logged term, but the spread shrinks below the baseline's, and "
        "where the features agree the true loss is at its *largest* value, 0.",
    ),
    "E": Sabotage(
        "torch.log(torch.exp(-D / tau).mean()) → "
        "(-D / tau).fill_diagonal_(-torch.inf).logsumexp((0, 1)) - 2 * torch.tensor(float(len(D))).log()",
        "The self-pairs are left out of the sum, which is still divided by B².",
        (
            "The features are normalised first.",
            "The log stands inside the mean.",
            "The noise level t is the same for all samples.",
        ),
        "The curve falls through the floor −log B and does not stop, since it has none without the self-pairs; and for "
        "identical features the loss is log(1 − 1/B) where the law says 0.",
    ),
    "F": Sabotage(
        ".square() / z.shape[1] → / z.shape[1] ** 0.5",
        "The distance is not squared.",
        (
            "τ is twice as large as configured.",
            "The distance is not divided by P.",
            "The diagonal of the distance matrix is not zero.",
        ),
        "It works, but not in the same way: the nearest pairs push hardest, so the force curve of notebook 02 starts "
        "at its peak instead of at 0. The law that fails: with twice the features and four times τ, the loss should "
        "stay the same.",
    ),
    "G": Sabotage(
        "-D / tau → (-D / tau).clamp_min(-1.0)",
        "The exponents are clamped: a pair that is a little apart no longer gets a gradient.",
        (
            "λ is warmed up over the whole training.",
            "The features are computed in bfloat16.",
            "The loss has reached −log B.",
        ),
        "The loss falls quickly and then stays level, but far above −log B, and on that plateau its gradient is "
        "exactly 0. The only floor of the right loss is −log B.",
    ),
    "H": Sabotage(
        "/ tau → / D.max().clamp_min(1e-12) / tau",
        "The distances are divided by the largest one of the batch.",
        (
            "The cosine variant runs instead of InfoNCE-L2.",
            "The learning rate decays too early.",
            "The features come from a block after the final norm.",
        ),
        "The loss hardly moves, whatever the features do, and their norm has no reason to grow. The law that fails: "
        "doubling the features should bring the loss nearer to its floor, and here it changes nothing.",
    ),
}
"""The sabotaged losses by letter."""
