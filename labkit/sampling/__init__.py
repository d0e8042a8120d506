"""From a network's prediction and noise to images; nothing here knows a model."""

from labkit.sampling.diffusion import DiffusionMethod, diffusion_states
from labkit.sampling.guidance import Channels, guided
from labkit.sampling.meanflow import jump_states
from labkit.sampling.ode import EVALUATIONS, OdeMethod, adaptive, integrate, states
from labkit.sampling.sde import SDE_EVALUATIONS, Diffusion, SdeMethod, sde_states
from labkit.sampling.settings import METHODS, Method, Sampler

__all__ = [
    "EVALUATIONS",
    "METHODS",
    "SDE_EVALUATIONS",
    "Channels",
    "Diffusion",
    "DiffusionMethod",
    "Method",
    "OdeMethod",
    "Sampler",
    "SdeMethod",
    "adaptive",
    "diffusion_states",
    "guided",
    "integrate",
    "jump_states",
    "sde_states",
    "states",
]
