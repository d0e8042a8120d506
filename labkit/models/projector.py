"""REPA's projector: the small network between a generator's tokens and a teacher's."""

from torch import nn

from labkit.checks import require, whole


class Projector(nn.Sequential):
    """Linear(features, hidden) - SiLU - Linear(hidden, hidden) - SiLU - Linear(hidden, width), on the last axis.

    It is trained along with the generator and thrown away after. Weights start as the transformer's linears do:
    xavier-uniform, biases zero.

    Args:
        features: width of the generator's tokens, (…, features).
        hidden: width between the layers; the paper's is 2048.
        width: width of the teacher's tokens; what comes out is (…, width).

    Raises:
        ConfigError: a width that is no whole number of at least 1.

    Source: Yu et al. 2024, *Representation Alignment for Generation* (arXiv 2410.06940).
    """

    def __init__(self, features: int, hidden: int, width: int) -> None:
        for name, value in {"features": features, "hidden": hidden, "width": width}.items():
            require(whole(value, 1), name, value, "take a whole number of at least 1")
        super().__init__(
            nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
