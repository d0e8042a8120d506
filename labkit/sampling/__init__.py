"""From a network's prediction and noise to images."""

from labkit.sampling.guidance import Channels, guided
from labkit.sampling.sample import Frame, Samples, few_steps, film_network, sample_network, starting_noise
from labkit.sampling.sampler import METHODS, SOLVERS, Method, Sampler
from labkit.sampling.solvers import Diffusion, Problem, Solver, integrate, states

__all__ = [
    "METHODS",
    "SOLVERS",
    "Channels",
    "Diffusion",
    "Frame",
    "Method",
    "Problem",
    "Sampler",
    "Samples",
    "Solver",
    "few_steps",
    "film_network",
    "guided",
    "integrate",
    "sample_network",
    "starting_noise",
    "states",
]
