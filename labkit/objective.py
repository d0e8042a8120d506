"""The training objective: a network, its base loss and the regularizers at its blocks, as one module.

    L_total = L_base + λ_d · L_dispersive + λ_c · L_contrastive + λ_r · L_repa

The base loss is that of the model's process: SiT's flow, DiT's diffusion or MeanFlow. The network runs once with
gradient, and the regularizers read features of that same forward. Only the contrastive loss needs a second view, for
which the network runs once more, up to the last block that is read. This module is what gets wrapped for precision,
compilation or many GPUs: a wrapper around the network alone would miss the losses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit import time_sampling
from labkit.checks import require
from labkit.config import REGULARIZERS, Config
from labkit.distributed import gather
from labkit.losses import Bank, Dispersive, Repa, dispersive_floor, repa_loss
from labkit.losses.weight import Weight
from labkit.models import Projector, Teacher, Transformer, features_per_sample, load_teacher, parse_name
from labkit.process import MeanFlowProcess, process_of
from labkit.types import Batch, Draws, Losses

Features = dict[int, Tensor]
OwnFunctions = Mapping[str, Callable[..., Tensor]]
"""Functions in place of the library's: ``dispersive``, from the features of a block to its loss, and ``target``, with
the arguments of ``average_velocity_target``."""
NO_OWN: OwnFunctions = MappingProxyType({})


def blocks_of(settings: Dispersive | Repa, model: str) -> tuple[int, ...]:
    """The blocks that a regularizer reads; by default the one at a quarter of the depth, as in the papers."""
    depth = parse_name(model).size.depth
    if isinstance(settings, Repa):
        return (depth // 4 if settings.block is None else settings.block,)
    by_name = {None: (depth // 4,), "all": tuple(range(depth)), "last": (depth - 1,)}
    return settings.blocks if isinstance(settings.blocks, tuple) else by_name[settings.blocks]


def regularized_blocks(config: Config) -> tuple[int, ...]:
    """The blocks that are metered: REPA's if it alone is on, else those of the repelling loss, on or off."""
    return blocks_of(config.repa if config.regularizers == ("repa",) else config.repelling, config.model)


def metered_floor(config: Config, input_size: int) -> float:
    """Lower bound of the metered Dispersive Loss, over a whole batch of ``input_size``² images; may be −inf."""
    features = features_per_sample(config.model, input_size)
    return dispersive_floor(config.batch_size, **config.repelling.arguments, features=features)


class Objective(nn.Module):
    """A process's loss with optional Dispersive, contrastive and REPA terms.

    ``forward(batch, draws)`` is deterministic: time, noise, dropped labels and second view come from ``draws``.

    Args:
        network: the model to train.  config: the experiment.
        teacher: REPA's, by default the one that the config names.  own: functions in place of the library's.

    Raises:
        ConfigError: a block that the network lacks, guidance without dropped labels, or a teacher whose tokens are not
            on the network's grid.
    """

    def __init__(
        self, network: Transformer, config: Config, teacher: Teacher | None = None, own: OwnFunctions = NO_OWN
    ) -> None:
        super().__init__()
        self.network, self.config, self.process = network, config, process_of(config)
        self.repulsion = own.get("dispersive", config.dispersive.repulsion)
        if "target" in own:
            assert isinstance(self.process, MeanFlowProcess), "a target of one's own is MeanFlow's"
            # Fused attention has no derivative in forward mode, which such a function takes.
            self.process.target = torch.no_grad()(sdpa_kernel(SDPBackend.MATH)(own["target"]))
        null_trained = not config.meanflow.guided or config.label_drop > 0
        fault = "it needs the model without labels, which label_drop = 0 never trains; take label_drop = 0.1, or 1 here"
        require(null_trained, "meanflow.guidance", config.meanflow.guidance, fault)
        self.blocks = {name: blocks_of(getattr(config, name), config.model) for name in REGULARIZERS}
        for name, blocks in self.blocks.items():
            network.check_blocks(blocks, f"{name}.{'block' if name == 'repa' else 'blocks'}")
        on = {name: getattr(config, name) for name in config.regularizers}
        self.taps = sorted({*regularized_blocks(config), *(block for name in on for block in self.blocks[name])})
        self.weights = nn.ModuleDict({name: Weight(group.lam, group.schedule) for name, group in on.items()})
        banked = self.blocks["dispersive"] if "dispersive" in on and config.dispersive.negatives == "bank" else ()
        features = network.side**2 * network.width
        self.banks = nn.ModuleDict({str(block): Bank(config.dispersive.bank, features) for block in banked})
        self.teacher: Teacher | None = None
        self.projector: Projector | None = None
        if "repa" in on:
            self.teacher = teacher or load_teacher(config.repa.teacher, network.side, config.repa.antialias)
            require(
                self.teacher.tokens == network.side**2,
                "repa.teacher",
                config.repa.teacher,
                f"it gives {self.teacher.tokens} tokens an image and {config.model} has {network.side**2} here; choose "
                "a patch or a teacher with the other's grid",
            )
            self.projector = Projector(network.width, config.repa.hidden, self.teacher.width)

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        low = self.config.engine.precision == "bfloat16"  # of float32, whatever the caller has set stays
        with torch.autocast(batch.x.device.type, torch.bfloat16) if low else nullcontext():
            return self._losses(batch, draws)

    def _losses(self, batch: Batch, draws: Draws) -> Losses:
        labels = torch.where(draws.uniforms[:, 1] < self.config.label_drop, self.network.num_classes, batch.y)
        base = self.process.base(self.network, batch, draws, labels, self.taps)
        terms = dict(base.terms)
        if "dispersive" in self.weights:
            settings, blocks = self.config.dispersive, self.blocks["dispersive"]
            banks: dict[int, Any] = {block: (self.banks[str(block)],) if self.banks else () for block in blocks}
            terms["dispersive"] = _over_blocks(
                lambda block, z: self.repulsion(z, *banks[block]), settings, blocks, base.features
            )
        if "contrastive" in self.weights:
            settings, second = self.config.contrastive, self._second_view(batch, draws, labels, base.times)
            blocks, views = self.blocks["contrastive"], (base.features, second)
            both = _over_blocks(lambda _, *z: torch.stack(settings.parts(*z)), settings, blocks, *views)
            terms["alignment"], repulsion = both
            terms["contrastive"] = settings.alignment_weight * terms["alignment"] + repulsion
        if self.teacher is not None and self.projector is not None:
            tokens = base.features[self.blocks["repa"][0]]
            images = batch.x if batch.pixels is None else batch.pixels
            terms["repa"] = repa_loss(self.projector(tokens), self.teacher(images))
        weighted = {
            name: weight(draws.step).to(terms[name].dtype) * terms[name] for name, weight in self.weights.items()
        }
        total = sum(weighted.values(), start=base.loss)
        terms = {name: term.detach() for name, term in terms.items()}
        return Losses(total, terms, weighted, base.features, base.errors.detach(), base.times)

    def _second_view(self, batch: Batch, draws: Draws, labels: Tensor, t: Tensor) -> Features:
        """Features of the same images and labels with other noise, at another time; no base loss is computed on it."""
        view, settings = draws.second, self.config.contrastive
        assert view is not None, "the contrastive loss needs draws.second"
        t = time_sampling.second(t, view.uniforms, settings.noise, settings.max_gap, self.process.time)
        x = self.process.noised(batch.x, view.noise, t)
        return self.network.features(x, self.process.model_time(t), labels, taps=self.blocks["contrastive"])


def _over_blocks(loss: Callable[..., Tensor], settings: Dispersive, blocks: Sequence[int], *views: Features) -> Tensor:
    """The loss of each block and chunk of samples that repel each other: the mean over chunks, then one over blocks.

    Args:
        loss: a function of a block's number and a chunk of its features in each view.
    """
    losses = []
    for block in blocks:
        scope = [view[block] for view in views]
        if settings.negatives == "global":
            scope = [gather(z) for z in scope]
        chunks = zip(*(z.split(settings.chunk or len(z)) for z in scope), strict=True)
        losses.append(torch.stack([loss(block, *chunk) for chunk in chunks]).mean(dim=0))
    losses = torch.stack(losses)
    return losses.mean(dim=0) if settings.reduce == "mean" else losses.sum(dim=0)
