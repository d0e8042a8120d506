"""From a velocity field and noise to images; nothing here knows a model."""

from labkit.sampling.guidance import Channels, guided
from labkit.sampling.ode import EVALUATIONS, Method, adaptive, integrate, states
from labkit.sampling.sde import SDE_EVALUATIONS, Diffusion, SdeMethod, sde_states

__all__ = [
    "EVALUATIONS",
    "SDE_EVALUATIONS",
    "Channels",
    "Diffusion",
    "Method",
    "SdeMethod",
    "adaptive",
    "guided",
    "integrate",
    "sde_states",
    "states",
]
