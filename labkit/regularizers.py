"""The regularizers and their settings: what each can be told, which defaults it takes, and what makes no sense.

A regularizer reads features at some blocks of the network and adds a weighted term to the loss. Any of the three can be
on: ``Dispersive``, its ``Contrastive`` parent with a second view, and ``Repa`` with a frozen teacher.
"""

from dataclasses import dataclass
from typing import Any, Literal

from labkit.checks import as_tuple, choose, finite, require, whole

Variant = Literal["infonce_l2", "infonce_cosine", "hinge", "covariance"]
REGULARIZERS = ("dispersive", "contrastive", "repa")  # their names in a config
KNOBS: dict[str, dict[str, float | bool]] = {  # what each variant can be told, and what it takes when it is not
    "infonce_l2": {"tau": 0.5, "include_self": True},
    "infonce_cosine": {"tau": 0.5, "include_self": True},
    "hinge": {"margin": 1.0, "include_self": True},
    "covariance": {},
}
Form = Literal["additive", "original"]
Noise = Literal["independent", "restricted"]
Reduce = Literal["mean", "sum"]
Negatives = Literal["local", "global"]


def own_knobs(variant: str, holder: Any) -> dict[str, float]:
    """Those of τ and ε that a variant has, with the values that ``holder`` has under these names."""
    return {name: getattr(holder, name) for name in ("tau", "margin") if name in KNOBS[variant]}


def loss_arguments(
    variant: str, tau: float | None, margin: float | None, include_self: bool | None, prefix: str = ""
) -> dict[str, Any]:
    """The settings that a variant of the loss works with: defaults for None, and what it has no use for is refused.

    Returns:
        tau, margin and include_self by name; None where the variant has none.
    """
    choose(variant, Variant, f"{prefix}variant")
    knobs, found = KNOBS[variant], {}
    for name, value in {"tau": tau, "margin": margin, "include_self": include_self}.items():
        has = f"it takes {' and '.join(knobs)}" if knobs else "it takes none"
        require(value is None or name in knobs, f"{prefix}{name}", value, f"{variant} has no such setting, {has}")
        found[name] = knobs.get(name) if value is None else value
    for name, meaning in {"tau": "the temperature", "margin": "the margin ε"}.items():
        value, default = found[name], knobs.get(name)
        allowed = f"{meaning} must be a finite number above 0 (by default {default})"
        require(name not in knobs or (finite(value) and value > 0), f"{prefix}{name}", value, allowed)
    own = found["include_self"]
    require(own is None or isinstance(own, bool), f"{prefix}include_self", own, "say True or False")
    return found


@dataclass(frozen=True)
class Dispersive:
    """The Dispersive Loss at some blocks, weighted by λ: what ``labkit.dispersive_loss`` is given, and where."""

    lam: float | None = None
    """Weight λ ≥ 0. None is off; 0 is computed, logged and multiplied by 0, so it trains the same bits as off."""
    tau: float | None = None
    """Temperature τ > 0 of the InfoNCE variants, by default the paper's 0.5; D = ‖·‖²/P or −cos is divided by it."""
    variant: Variant = "infonce_l2"
    blocks: tuple[int, ...] | Literal["all", "last"] | None = None
    """Blocks, numbered from 0, whose output is regularized (and metered, even when λ is off). None: depth // 4."""
    margin: float | None = None
    """ε > 0 of the hinge, by default 1 (the paper's value is not known)."""
    include_self: bool | None = None
    """Whether the pairs (i, i) count, by default yes, as in the released code; the covariance has none."""
    reduce: Reduce = "mean"
    """How the losses of several blocks become one (the authors' way is not known)."""
    negatives: Negatives = "local"
    """Whose samples repel each other: those of one device, as in the authors' runs, or those of all."""
    chunk: int | None = None
    """Part the batch into chunks of so many samples that repel only among themselves, as many devices with a small
    batch each would; it must divide the batch."""
    warmup: int = 0
    """λ rises linearly from λ/warmup to λ over the first so many steps."""

    def __post_init__(self) -> None:
        group = type(self).__name__.lower()
        require(
            self.lam is None or (finite(self.lam) and self.lam >= 0),
            f"{group}.lam",
            self.lam,
            "λ must be a finite number of at least 0, or None for off",
        )
        self.arguments()
        self._check_blocks(f"{group}.blocks")
        choose(self.reduce, Reduce, f"{group}.reduce")
        choose(self.negatives, Negatives, f"{group}.negatives")
        least = 3 if self.variant == "covariance" else 2
        require(
            self.chunk is None or whole(self.chunk, least),
            f"{group}.chunk",
            self.chunk,
            f"take a whole number of at least {least}",
        )
        require(
            self.chunk is None or self.negatives == "local",
            f"{group}.chunk",
            self.chunk,
            "chunks part the batch of one device; take negatives = local",
        )
        require(whole(self.warmup, 0), f"{group}.warmup", self.warmup, "take a whole number of steps, 0 for none")

    def _check_blocks(self, name: str) -> None:
        if self.blocks is None or self.blocks in ("all", "last"):
            return
        object.__setattr__(self, "blocks", as_tuple(self.blocks))
        require(
            len(self.blocks) > 0 and all(whole(b, 0) for b in self.blocks),
            name,
            self.blocks,
            "name one or several blocks by whole numbers from 0, or say 'all' or 'last'",
        )
        require(len(set(self.blocks)) == len(self.blocks), name, self.blocks, "name each block once")

    def arguments(self) -> dict[str, Any]:
        """What ``dispersive_loss`` is called with, beside the features."""
        prefix = f"{type(self).__name__.lower()}."
        return {
            "variant": self.variant,
            **loss_arguments(self.variant, self.tau, self.margin, self.include_self, prefix),
        }


@dataclass(frozen=True)
class Contrastive(Dispersive):
    """The contrastive parent: a second noised view of each image, to which its features are drawn.

    L = α·A(z, z⁺) + dispersive_loss(z): α = 1 is contrastive, α = 0 the Dispersive Loss. The denoising loss sees the
    first view only.
    """

    alignment_weight: float = 1.0
    """α ≥ 0."""
    form: Form = "additive"
    """``original`` is the two-view InfoNCE or the cross-covariance (Barlow Twins) loss, at α = 1 only."""
    noise: Noise = "independent"
    """Noise and time of the second view: its own noise and time, or its own noise at a time near the first's."""
    max_gap: float = 0.1
    """How far the time of the second view lies from the first's at most, if ``restricted``; in [0, 1] (the paper's
    bound is not known)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.noise, Noise, "contrastive.noise")
        check_parent(self.variant, self.alignment_weight, self.form, self.include_self, "contrastive.")
        gap = self.max_gap
        require(finite(gap) and 0 <= gap <= 1, "contrastive.max_gap", gap, "take a distance between times in [0, 1]")

    def parent_arguments(self) -> dict[str, Any]:
        """What ``contrastive_loss`` is called with, beside the features of both views."""
        own = {"include_self": self.include_self, "alignment_weight": self.alignment_weight, "form": self.form}
        return {**self.arguments(), **own}


def check_parent(variant: str, alignment_weight: float, form: str, include_self: bool | None, prefix: str = "") -> None:
    """Refuse what a contrastive parent cannot be."""
    choose(form, Form, f"{prefix}form")
    weight = alignment_weight
    require(
        finite(weight) and weight >= 0, f"{prefix}alignment_weight", weight, "α must be a finite number of at least 0"
    )
    if form == "original":
        require(
            variant != "hinge", f"{prefix}form", form, "the hinge's parent is the additive one, it has no other form"
        )
        require(weight == 1, f"{prefix}alignment_weight", weight, "the original forms are whole, with α = 1 only")
        require(
            include_self is None,
            f"{prefix}include_self",
            include_self,
            "in the original forms the pair (i, i) is the positive; leave it out",
        )


@dataclass(frozen=True)
class Repa:
    """Representation alignment (Yu et al. 2024): projected tokens of one block follow a frozen teacher's tokens."""

    lam: float | None = None
    """Weight ≥ 0, the paper's is 0.5. None is off."""
    block: int | None = None
    """The block, numbered from 0. None: depth // 4, which is 7 for XL and 3 for B, as in its paper."""
    teacher: str = "digits"
    """``digits``: the lab's own; else the hub id or the folder of a DINOv2, such as facebook/dinov2-base."""
    hidden: int = 2048
    """Width of the projector, which has three layers and is trained along."""
    warmup: int = 0
    """The weight rises linearly over the first so many steps."""

    def __post_init__(self) -> None:
        lam = self.lam
        require(lam is None or (finite(lam) and lam >= 0), "repa.lam", lam, "take a finite number ≥ 0, or None for off")
        require(self.block is None or whole(self.block, 0), "repa.block", self.block, "take a whole number from 0")
        require(
            isinstance(self.teacher, str) and self.teacher != "",
            "repa.teacher",
            self.teacher,
            "say digits, or a hub id or folder",
        )
        require(whole(self.warmup, 0), "repa.warmup", self.warmup, "take a whole number of steps, 0 for none")
        require(whole(self.hidden, 1), "repa.hidden", self.hidden, "take a whole number of at least 1")
