"""REPA's projector: the small network between a generator's tokens and a teacher's."""

from torch import nn


class Projector(nn.Sequential):
    """Linear(features, hidden) - SiLU - Linear(hidden, hidden) - SiLU - Linear(hidden, width), on the last axis.

    It is trained along with the generator and then discarded. Weights start as the transformer's linears do:
    xavier-uniform, biases zero.

    Args:
        features: width of the generator's tokens, (…, features).
        hidden: width between the layers; the paper's is 2048.
        width: width of the teacher's tokens and of the output, (…, width).

    Source: Yu et al. 2024, *Representation Alignment for Generation* (arXiv 2410.06940).
    """

    def __init__(self, features: int, hidden: int, width: int) -> None:
        layers = nn.Linear(features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, width)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        super().__init__(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])
