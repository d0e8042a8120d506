"""Processes between noise and data: the loss that trains a network on each, and the velocity that samplers follow.

The model's family names the process: ``FlowProcess`` (SiT), ``DiffusionProcess`` (DiT), ``MeanFlowProcess``. All count
time from noise, t = 0, to data, t = 1, and have the same methods:

    time(u)                                       uniform numbers in [0, 1) → training times
    model_time(t)                                 the time t as the network takes it; time_of(·), the other way
    noised(x1, x0, t)                             the point between data x1 and noise x0 that is the network's input
    base(network, batch, draws, labels, taps)     run the network once with gradient → Base

They are modules without parameters, so that their tables move to a device with the objective that holds them.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labkit import paths, time_sampling
from labkit.config import Config
from labkit.losses import adaptive_loss, average_velocity_target, diffusion_errors, squared_errors
from labkit.models import Transformer
from labkit.ops import expand_like
from labkit.schedule import Schedule
from labkit.types import Batch, Draws

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, t, labels) → velocity"""


class Base(NamedTuple):
    """A network's loss before any regularizer."""

    loss: Tensor
    """Scalar to minimise."""
    terms: dict[str, Tensor]
    """Scalars to log; the mean of ``errors`` is the first."""
    errors: Tensor
    """(B,): squared error of each sample, averaged over its entries."""
    times: Tensor
    """(B,): time t of each sample."""
    features: dict[int, Tensor]
    """Block → (B, tokens, width)."""


class _OnPath(nn.Module):
    """A process on a path; its network takes t itself."""

    path: paths.Path
    interval: tuple[float, float]
    """First and last time at which the velocity is finite."""

    def model_time(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, model_time: float) -> float:
        return model_time

    def noised(self, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return self.path(x1, x0, t).x_t


class FlowProcess(_OnPath):
    """SiT: regress velocity, noise or score on a path."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.settings = config.flow
        self.path = paths.PATHS[config.flow.path]
        # The likelihood's weight is infinite at both ends, as the score is.
        singular = "score" if config.flow.weighting == "likelihood" else config.flow.prediction
        self.interval = self.path.interval(singular)

    def time(self, u: Tensor) -> Tensor:
        first, last = self.interval
        return first + (last - first) * u

    def base(self, network: Transformer, batch: Batch, draws: Draws, labels: Tensor, taps: Collection[int]) -> Base:
        t, prediction = self.time(draws.uniforms[:, 0]), self.settings.prediction
        point = self.path(batch.x, draws.noise, t)
        output, features = network(point.x_t, t, labels, taps=taps)
        if prediction == "velocity":
            errors = squared_errors(output, point.velocity)
        elif prediction == "noise":
            errors = squared_errors(output, draws.noise)
        else:  # the score is −x₀/σ; times σ its error stays finite
            errors = squared_errors(expand_like(self.path.coefficients(t).sigma, output) * output, -draws.noise)
        mean = (self.weight(t) * errors).mean()
        return Base(mean, {prediction: errors.mean()}, errors, t, features)

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of the noise, or of σ times the score (SiT, appendix A).

        ``velocity``: (w/σ)², ``likelihood``: w/σ², with w = σ²·α′/α − σ·σ′, the diffusion whose flow the path is.
        """
        if self.settings.weighting == "none":
            return torch.ones_like(t)
        c = self.path.coefficients(t)
        speed = c.sigma * c.d_alpha / c.alpha - c.d_sigma  # w/σ, which is finite where σ = 0
        return speed**2 if self.settings.weighting == "velocity" else speed / c.sigma

    def velocity(self, network: Transformer, clip: bool = False) -> Field:
        """The velocity that corresponds to a network's prediction; ``clip`` keeps the predicted data in [−1, 1]."""
        prediction, convert = self.settings.prediction, self.path.convert

        def field(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            output = network(x, t, y).output
            if not clip:
                return convert(output, prediction, "velocity", x, t)
            return convert(convert(output, prediction, "data", x, t).clamp(-1, 1), "data", "velocity", x, t)

        return field


class DiffusionProcess(nn.Module):
    """DiT: noise and variance of a diffusion in 1,000 steps; time t is step k = 999 − ⌊1000·t⌋."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule.linear()

    def time(self, u: Tensor) -> Tensor:
        return u

    def step(self, t: Tensor) -> Tensor:
        """The step k of a time, from 999 (noise) to 0 (data)."""
        last = len(self.schedule) - 1
        return last - (t * len(self.schedule)).long().clamp(0, last)

    def model_time(self, t: Tensor) -> Tensor:
        return self.schedule.timesteps[self.step(t)].to(t.dtype)

    def time_of(self, model_time: float) -> float:
        return (len(self.schedule) - 1 - model_time) / len(self.schedule)

    def noised(self, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return self.schedule.noised(x1, x0, self.step(t))

    def base(self, network: Transformer, batch: Batch, draws: Draws, labels: Tensor, taps: Collection[int]) -> Base:
        t = draws.uniforms[:, 0]
        x_k = self.noised(batch.x, draws.noise, t)
        output, features = network(x_k, self.model_time(t), labels, taps=taps)
        errors, bound = diffusion_errors(output, draws.noise, batch.x, x_k, self.step(t), self.schedule)
        terms = {"noise": errors.mean(), "bound": bound.mean()}
        return Base(terms["noise"] + terms["bound"], terms, errors, t, features)


class MeanFlowProcess(_OnPath):
    """MeanFlow: the average velocity of the linear path between two times."""

    path, interval = paths.linear, (0.0, 1.0)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.settings, self.batch_size = config.meanflow, config.batch_size
        self.target: Callable[..., Tensor] = average_velocity_target

    def time(self, u: Tensor) -> Tensor:
        return time_sampling.logit_normal(u, self.settings.mean, self.settings.deviation)

    def base(self, network: Transformer, batch: Batch, draws: Draws, labels: Tensor, taps: Collection[int]) -> Base:
        """The first ``share`` of the rows train over a span s − t > 0, the others at one time (s = t).

        A batch comes in random order, so the first rows are a random choice, and every part keeps its shape.
        """
        assert draws.ends is not None, "MeanFlow needs draws.ends"
        one, other = self.time(draws.uniforms[:, 0]), self.time(draws.ends)
        t, s = torch.minimum(one, other), torch.maximum(one, other)
        n = math.ceil(self.settings.share * len(t))  # rows with a span
        span = torch.cat([(s - t)[:n], torch.zeros_like(t[n:])])
        point = self.path(batch.x, draws.noise, t)
        # First the pass with gradient: under autocast, torch before 2.11 caches the weights that it casts, and a
        # weight that was first cast for the target, without gradient, would get no gradient here either.
        output, features = network(point.x_t, t, labels, taps=taps, span=span)
        velocity = self._guided(network, point.x_t, t, labels, point.velocity)
        target = self.target(
            lambda x, t, span: network(x, t, labels[:n], span=span).output, point.x_t[:n], t[:n], span[:n], velocity[:n]
        )
        errors = squared_errors(output, torch.cat([target, velocity[n:]]))
        summed = errors * batch.x[0].numel()
        loss = adaptive_loss(summed, self.settings.power, self.settings.constant).mean()
        return Base(loss, {"average_velocity": errors.mean(), "meanflow": loss}, errors, t, features)

    @torch.no_grad()
    def _guided(self, network: Transformer, x_t: Tensor, t: Tensor, labels: Tensor, velocity: Tensor) -> Tensor:
        """The velocity to learn, with guidance built in; that of the path without a label or outside the interval."""
        if not self.settings.guided:
            return velocity
        omega, kappa = self.settings.guidance, self.settings.mixing
        null = torch.full_like(labels, network.num_classes)
        without = network(x_t, t, null).output
        with_label = network(x_t, t, labels).output if kappa else without
        guided = omega * velocity + kappa * with_label + (1 - omega - kappa) * without
        first, last = self.settings.guidance_interval
        unguided = (labels == null) | (t < first) | (t > last)
        return torch.where(expand_like(unguided, x_t), velocity, guided)


def base_term(config: Config) -> str:
    """The name under which a config's base loss is logged."""
    return {"SiT": config.flow.prediction, "DiT": "noise", "MeanFlow": "average_velocity"}[config.family]


def process_of(config: Config) -> FlowProcess | DiffusionProcess | MeanFlowProcess:
    """The process of a config's model."""
    if config.family == "DiT":
        return DiffusionProcess()
    return FlowProcess(config) if config.family == "SiT" else MeanFlowProcess(config)
