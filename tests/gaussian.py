"""The flow from N(0, 1) to N(m, s²) in closed form: what it is at points (B, P) and times (B,)."""

import torch

from labkit import paths

MEAN, DEVIATION = 1.5, 0.3


def at(t, path):
    """The path's coefficients, and the standard deviation of its points."""
    c = path.coefficients(t[:, None])
    return c, ((c.alpha * DEVIATION) ** 2 + c.sigma**2).sqrt()


def velocity(x, t, path=paths.linear):
    """E[v | x_t = x]: both ends, regressed on the point."""
    c, std = at(t, path)
    slope = (c.alpha * c.d_alpha * DEVIATION**2 + c.sigma * c.d_sigma) / std**2
    return c.d_alpha * MEAN + slope * (x - c.alpha * MEAN)


def score(x, t, path=paths.linear):
    c, std = at(t, path)
    return (c.alpha * MEAN - x) / std**2


def flow(x0, t, path=paths.linear):
    """Where x₀ at t = 0 has come to at a time: x_t − α·m grows as the standard deviation does."""
    (first, before), (now, after) = (at(torch.full((1,), time, dtype=torch.float64), path) for time in (0.0, t))
    return now.alpha * MEAN + after / before * (x0 - first.alpha * MEAN)


def average(x, t, span):
    """(x_s − x)/(s − t) on the linear path, in a form that has a value at s = t as well."""
    (c, here), (_, there) = (at(time, paths.linear) for time in (t, t + span))
    rate = ((2 * t + span)[:, None] * (DEVIATION**2 + 1) - 2) / (here + there)
    return MEAN + (x - c.alpha * MEAN) * rate / here
