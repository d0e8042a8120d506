"""Metrics of a network itself, on fixed inputs: its loss, and the features of its blocks."""

import torch

from labkit import datasets
from labkit.config import Config
from labkit.metrics import geometry, linear_probe_accuracy
from labkit.models import Transformer
from labkit.process import process_of
from labkit.training import Look, extract_features
from labkit.training.stream import Stream

LOSS_DRAWS = 4


@torch.no_grad()
def losses(network: Transformer, config: Config, count: int) -> dict[str, float]:
    """Mean squared error of the network's prediction, ``loss_train`` and ``loss_held_out``, and their ``loss_gap``.

    Noise and times are the same for every run. They are the same for both splits, too, unless one has fewer than
    ``count`` images, as digits-few has: other times then shift the two losses, and the gap, by an amount that
    differences between runs do not contain.
    """
    on, means = next(network.parameters()).device, {}
    process = process_of(config).to(on)
    for split in ("train", "held_out"):
        source = datasets.load(config.dataset, split)
        stream = Stream(source, min(count, len(source)), 0, on, pairs=config.family == "MeanFlow")
        drawn = [stream.at(draw * stream.batch_size) for draw in range(LOSS_DRAWS)]
        errors = [process.base(network, batch, draws, batch.y, ()).errors for batch, draws in drawn]
        means[f"loss_{split}"] = torch.cat(errors).double().mean().item()
    means["loss_gap"] = means["loss_held_out"] - means["loss_train"]
    return means


def block_geometry(network: Transformer, config: Config, count: int = 500) -> dict[int, dict[str, float]]:
    """Block → geometry of its features of ``count`` held-out images, noised to t = 0.5 by a fixed draw."""
    features = extract_features(network, Look(count=count), config).features
    return {block: geometry(z) for block, z in features.items()}


def block_probes(network: Transformer, config: Config, count: int) -> dict[int, float]:
    """Block → held-out accuracy of a linear probe for the class, which the network is not given; empty for one class.

    Args:
        count: images of each split.
    """
    train, held_out = (
        extract_features(network, Look(count=count, labelled=False, split=split), config)
        for split in ("train", "held_out")
    )
    if len(train.y.unique()) < 2:
        return {}
    return {
        block: linear_probe_accuracy(train.features[block], train.y, z, held_out.y)
        for block, z in held_out.features.items()
    }
