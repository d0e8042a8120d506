"""Choice of the runs of a sweep that are compiled on a CPU: those whose steps to come repay it.

Runs whose configs differ in seed or length alone are one program. The first process that runs it compiles it; the
others read it from torch's cache on disk. Measured on two cores of an AMD EPYC, two processes of one thread each,
SiT-Nano/2, batches of 128, 300 steps after ten: baseline 140 → 114 ms a step, dispersive 131 → 107 ms; seconds to the
first step 32 to 47 in the first process, 3 to 12 in any other.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch

from labkit import datasets
from labkit.config import Config
from labkit.flops import training_flops
from labkit.runtime import compiler_fault, device
from labkit.training.trainer import build_network

GAIN = 0.15
"""Share of an uncompiled step that is saved: less than what was measured."""
FIRST, NEXT = 45, 8
"""Seconds that compiling takes the first process of a program, and reading it every other."""
RATE = 2e10
"""Floating-point operations a second of one core, uncompiled."""


def worth_compiling(configs: Mapping[str, Config]) -> set[str]:
    """The runs whose program trains long enough to repay what compiling it takes.

    None on a GPU, where the recipe decides, and none where a compiler is missing.
    """
    if device().type != "cpu" or compiler_fault():
        return set()
    programs = defaultdict(list)
    for name, config in configs.items():
        programs[replace(config, seed=0, steps=1)].append(name)
    return {name for names in programs.values() if _repays([configs[name] for name in names]) for name in names}


def _repays(configs: list[Config]) -> bool:
    """Whether compiling one program for these runs of it saves more seconds than it takes."""
    config = configs[0]
    with torch.device("meta"):  # only counted, so that no weights are needed
        network = build_network(config, *datasets.load(config.dataset).dimensions)
    step = training_flops(network, config.batch_size) / RATE
    return GAIN * step * sum(config.steps for config in configs) > FIRST + NEXT * (len(configs) - 1)
