"""What is minimised: a network, its base loss and the regularizers at its blocks, as one module.

    L_total = L_base + λ_d · L_dispersive + λ_c · L_contrastive + λ_r · L_repa

The base loss is that of the model's process: SiT's flow, DiT's diffusion or MeanFlow. The network runs once with
gradient; the regularizers read features of that same forward. Only the contrastive loss needs those of a
second view, for which the network runs once more, up to the last block that is read. This module is what gets wrapped
for precision, compilation or many GPUs, because a wrapper that is called past does nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from labkit import times
from labkit.checks import require
from labkit.config import Config
from labkit.distributed import gather
from labkit.losses import contrastive_parts, dispersive_floor, dispersive_loss, repa_loss
from labkit.models import Projector, Teacher, Transformer, features_per_sample, load_teacher, parse_name
from labkit.process import process_of
from labkit.regularizers import REGULARIZERS, Dispersive, Repa
from labkit.types import Batch, Draws, Losses

Features = dict[int, Tensor]


def blocks_of(settings: Dispersive | Repa, model: str) -> tuple[int, ...]:
    """The blocks that a regularizer reads; by default the one at a quarter of the depth, as in the papers."""
    depth = parse_name(model).size.depth
    if isinstance(settings, Repa):
        return (depth // 4 if settings.block is None else settings.block,)
    named = {None: (depth // 4,), "all": tuple(range(depth)), "last": (depth - 1,)}
    return settings.blocks if isinstance(settings.blocks, tuple) else named[settings.blocks]


def regularized_blocks(config: Config) -> tuple[int, ...]:
    """The blocks that are metered: REPA's if it is on alone, else those of the regularizer that repels, or would."""
    return blocks_of(config.repa if config.regularizers == ("repa",) else config.repelling, config.model)


def metered_floor(config: Config, input_size: int) -> float:
    """The floor of the Dispersive Loss as it is metered: over a whole batch of images of this side; may be −inf."""
    features = features_per_sample(config.model, input_size)
    return dispersive_floor(config.batch_size, **config.repelling.arguments(), features=features)


class Objective(nn.Module):
    """A process's loss with optional Dispersive, contrastive and REPA terms.

    ``forward(batch, draws)`` is deterministic: time, noise, dropped labels and second view come from ``draws``.

    Args:
        network: what is trained.  config: the experiment.
        teacher: REPA's, by default the one that the config names. Its tokens must lie on the network's grid.
    """

    def __init__(self, network: Transformer, config: Config, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.network, self.config, self.process = network, config, process_of(config)
        self.blocks = {name: blocks_of(getattr(config, name), config.model) for name in REGULARIZERS}
        for name, blocks in self.blocks.items():
            network.check_blocks(blocks, f"{name}.{'block' if name == 'repa' else 'blocks'}")
        on = config.regularizers
        self.taps = sorted({*regularized_blocks(config), *(block for name in on for block in self.blocks[name])})
        self.teacher = self.projector = None
        if "repa" in on:
            self.teacher = teacher or load_teacher(config.repa.teacher, network.side)
            require(
                self.teacher.tokens == network.side**2,
                "repa.teacher",
                config.repa.teacher,
                f"it gives {self.teacher.tokens} tokens an image and {config.model} has {network.side**2} here; choose "
                "a patch or a teacher with the other's grid",
            )
            self.projector = Projector(network.width, config.repa.hidden, self.teacher.width)

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        with self._precision(batch.x.device.type):
            return self._losses(batch, draws)

    def _precision(self, kind: str) -> AbstractContextManager[Any]:
        """Matrix products in bfloat16, if the config says so; of float32, whatever the caller has set stays."""
        low = self.config.engine.precision == "bfloat16"
        return torch.autocast(kind, torch.bfloat16) if low else nullcontext()

    def _losses(self, batch: Batch, draws: Draws) -> Losses:
        labels = torch.where(draws.uniforms[:, 1] < self.config.label_drop, self.network.num_classes, batch.y)
        base = self.process.base(self.network, batch, draws, labels, self.taps)
        terms, weighted = dict(base.terms), {}
        if self.config.dispersive.lam is not None:
            terms["dispersive"] = self._dispersive(base.features)
            weighted["dispersive"] = _weight(self.config.dispersive, draws.step) * terms["dispersive"]
        if self.config.contrastive.lam is not None:
            second = self._second_view(batch, draws, labels, base.times)
            terms["alignment"], repulsion = self._contrastive(base.features, second)
            terms["contrastive"] = self.config.contrastive.alignment_weight * terms["alignment"] + repulsion
            weighted["contrastive"] = _weight(self.config.contrastive, draws.step) * terms["contrastive"]
        if self.config.repa.lam is not None:
            tokens = base.features[self.blocks["repa"][0]]
            seen = batch.x if batch.pixels is None else batch.pixels
            terms["repa"] = repa_loss(self.projector(tokens), self.teacher(seen))
            weighted["repa"] = _weight(self.config.repa, draws.step) * terms["repa"]
        total = sum(weighted.values(), start=base.loss)
        terms = {name: term.detach() for name, term in terms.items()}
        return Losses(total, terms, weighted, base.features, base.errors.detach(), base.times)

    def _dispersive(self, features: Features) -> Tensor:
        settings = self.config.dispersive
        known = settings.arguments()
        return _over_blocks(lambda z: dispersive_loss(z, **known), settings, self.blocks["dispersive"], features)

    def _contrastive(self, features: Features, second: Features) -> Tensor:
        """(alignment, repulsion), the two terms of the contrastive loss."""
        settings = self.config.contrastive
        known = settings.parent_arguments()

        def parts(z: Tensor, z_positive: Tensor) -> Tensor:
            return torch.stack(contrastive_parts(z, z_positive, **known))

        return _over_blocks(parts, settings, self.blocks["contrastive"], features, second)

    def _second_view(self, batch: Batch, draws: Draws, labels: Tensor, t: Tensor) -> Features:
        """Features of the same images and labels under other noise, at another time; its denoising is not trained."""
        view, settings, process = draws.second, self.config.contrastive, self.process
        t = times.second(t, view.uniforms, settings.noise, settings.max_gap, process.time)
        x = process.noised(batch.x, view.noise, t)
        return self.network.features(x, process.told(t), labels, taps=self.blocks["contrastive"])


def _weight(settings: Dispersive | Repa, step: Tensor) -> Tensor | float:
    """λ at a step, warmed up."""
    if not settings.warmup:
        return settings.lam
    return settings.lam * ((step + 1) / settings.warmup).clamp_max(1)


def _over_blocks(loss: Callable[..., Tensor], settings: Dispersive, blocks: Sequence[int], *views: Features) -> Tensor:
    """The loss of each block over the samples that repel each other, made one over chunks and blocks."""
    found = []
    for block in blocks:
        scope = [view[block] for view in views]
        if settings.negatives == "global":
            scope = [gather(z) for z in scope]
        chunks = zip(*(z.split(settings.chunk or len(z)) for z in scope), strict=True)
        found.append(torch.stack([loss(*chunk) for chunk in chunks]).mean(dim=0))
    losses = torch.stack(found)
    return losses.mean(dim=0) if settings.reduce == "mean" else losses.sum(dim=0)
