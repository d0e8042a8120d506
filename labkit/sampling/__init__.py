"""From a velocity field and noise to images; nothing here knows a model."""

from labkit.sampling.guidance import guided
from labkit.sampling.ode import EVALUATIONS, Method, integrate, states

__all__ = ["EVALUATIONS", "Method", "guided", "integrate", "states"]
