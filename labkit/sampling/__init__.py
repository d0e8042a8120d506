"""From a network's prediction and noise to images."""

from labkit.sampling.guidance import Channels, check_null_class, guided
from labkit.sampling.sample import (
    Frame,
    SampleError,
    Samples,
    check_finite,
    few_steps,
    film_network,
    sample_network,
    starting_noise,
)
from labkit.sampling.sampler import METHODS, SOLVERS, Method, Sampler
from labkit.sampling.solvers import Diffusion, Problem, Solver, states

__all__ = [
    "METHODS",
    "SOLVERS",
    "Channels",
    "Diffusion",
    "Frame",
    "Method",
    "Problem",
    "SampleError",
    "Sampler",
    "Samples",
    "Solver",
    "check_finite",
    "check_null_class",
    "few_steps",
    "film_network",
    "guided",
    "sample_network",
    "starting_noise",
    "states",
]
