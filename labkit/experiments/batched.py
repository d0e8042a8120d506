"""Many small models as one program: for a machine that a single small model leaves idle, a GPU above all.

Models that differ in seed and λ alone share every shape. Their weights are stacked to (M, …), and one vectorised
gradient of the same objective serves all:

    L_i = L_base(θ_i) + λ_i · L_disp(θ_i),   i = 1 … M;   ∂(ΣL_i)/∂θ_i = ∂L_i/∂θ_i

AdamW and the moving average act entry by entry, so that on stacks they do what they do on each model. Every run is
the Trainer's own: its weights, averages and moments become views of the stacks, and what it saves is what it would have
saved alone, to rounding. Meters are not logged, only losses.

A CPU gains nothing: SiT-Nano/4 took 54 ms a model and step three at a time, 46 alone (one core, batches of 128). With
``engine.compile`` all of it is one compiled graph (measured on one core, three models, batches of 32: 25 ms instead of
61 a step).
"""

import copy
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit.checks import LabError, require
from labkit.config import Config
from labkit.objective import Objective
from labkit.training import Trainer
from labkit.training.folder import RunError, RunFolder
from labkit.training.status import State, one_line

Stack = dict[str, Tensor]


def groups(runs: Mapping[Path, Config]) -> list[dict[Path, Config]]:
    """Runs that can share a program, largest groups first: those alike but for seed and λ."""
    alike: dict[str, dict[Path, Config]] = defaultdict(dict)
    for folder, config in runs.items():
        alike[_shared(config).to_json()][folder] = config
    return sorted(alike.values(), key=len, reverse=True)


def _shared(config: Config) -> Config:
    return replace(config, seed=0, dispersive=replace(config.dispersive, lam=1.0))


def train_batched(runs: Mapping[Path, Config]) -> Generator[int]:
    """Train runs together from where they are to their end, and save them; yields the number of finished steps.

    Left early, it saves as a Trainer does, and goes on from there.

    Raises:
        ConfigError: runs that differ in more than seed and λ, or settings that models cannot share.
        RunError: they stand at different steps, or weights are not finite at the end.
    """
    require(len(groups(runs)) == 1, "runs", [*map(str, runs)], "train runs together that differ in seed and λ alone")
    engine = next(iter(runs.values())).engine
    for name, usual in (("accumulate", 1), ("clip", None), ("checkpointing", False)):
        allowed = f"models that are trained together need {usual}"
        require(getattr(engine, name) == usual, f"engine.{name}", getattr(engine, name), allowed)
    own = "each model needs a bank of its own; train these runs alone"
    require(all(c.dispersive.negatives != "bank" for c in runs.values()), "dispersive.negatives", "bank", own)
    with ExitStack() as owned:
        folders = [RunFolder(path) for path in runs]
        for folder in folders:
            owned.enter_context(folder.writing())
        trainers = [Trainer(config, folder) for folder, config in zip(folders, runs.values(), strict=True)]
        if len({trainer.step for trainer in trainers}) > 1:
            steps = ", ".join(f"{folder.name} at {t.step}" for folder, t in zip(runs, trainers, strict=True))
            raise RunError(f"Runs are trained together from the same step, and these stand at different ones: {steps}.")
        for trainer, folder in zip(trainers, folders, strict=True):
            folder.rewind(trainer.step)
        models = _Models(trainers, folders)
        try:
            while len(trainers[0]):
                models.advance()
                if trainers[0].step % trainers[0].config.save_every == 0:
                    models.save()
                yield trainers[0].step
        finally:
            models.save("stopped" if len(trainers[0]) else "finished")


class _Models:
    """The stacks, and how they move."""

    def __init__(self, trainers: Sequence[Trainer], folders: Sequence[RunFolder]) -> None:
        self.trainers, self.folders, first = trainers, folders, trainers[0]
        self.objective = Objective(copy.deepcopy(first.network), _shared(first.config)).to(first.fabric.device)
        lams = [trainer.config.dispersive.lam or 0.0 for trainer in trainers]
        self.lam = torch.tensor(lams, dtype=torch.float64, device=first.fabric.device)
        own = [dict(trainer.objective.module.named_parameters()) for trainer in trainers]
        self.weights = {name: p.detach() for name, p in _stacked(own).items() if own[0][name].requires_grad}
        self.averages = _stacked([dict(t.ema.network.named_parameters(prefix="network")) for t in trainers])
        self.optimizer = torch.optim.AdamW(self.weights.values(), **_settings(first.optimizer))
        for i, trainer in enumerate(trainers):
            for name, stack in self.weights.items():
                own[i][name].data = stack[i]
            for name, average in trainer.ema.network.named_parameters(prefix="network"):
                average.data = self.averages[name][i]
        if first.step:
            self._take_moments(own)
        self._own = own
        compiled = first.config.engine.compile
        self._gradients = torch.compile(self._vectorised, dynamic=False) if compiled else self._vectorised

    def _take_moments(self, own: Sequence[Stack]) -> None:
        for name, stack in self.weights.items():
            states = [t.optimizer.state[p[name]] for t, p in zip(self.trainers, own, strict=True)]
            moments = {key: torch.stack([state[key] for state in states]) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[stack] = {"step": states[0]["step"].clone(), **moments}

    def advance(self) -> None:
        """One optimizer step of all."""
        began, first = time.perf_counter(), self.trainers[0]
        drawn = {t.config.seed: t.stream.at(t.samples) for t in self.trainers}  # runs of a seed see the same
        batch, draws = _tupled([drawn[t.config.seed] for t in self.trainers])
        draws = draws._replace(step=draws.step.to(self.lam.device))  # a stack of numbers does not mix with a GPU's
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be vectorised everywhere
            gradients, (_, terms) = self._gradients(self.weights, self.lam, batch, draws)
        for name, stack in self.weights.items():
            stack.grad = gradients[name]
        self.optimizer.step()
        trained = [name for name in self.averages if name in self.weights]
        averages, live = ([stacks[name] for name in trained] for stacks in (self.averages, self.weights))
        torch._foreach_lerp_(averages, live, 1 - first.ema.decay_at(first.step))
        for i, (trainer, folder) in enumerate(zip(self.trainers, self.folders, strict=True)):
            trainer.step += 1
            trainer.seconds += (time.perf_counter() - began) / len(self.trainers)
            logs = trainer.step % trainer.config.log_every == 0 or trainer.step == trainer.config.steps
            if logs:
                off = {"dispersive"} if trainer.config.dispersive.lam is None else set()
                values = {name: term[i].item() for name, term in terms.items() if name not in off}
                folder.log(trainer.step, trainer.samples, trainer.seconds, values)
            folder.beat(trainer.step, logs)

    def _vectorised(self, weights: Stack, lam: Tensor, batch: Any, draws: Any) -> Any:
        """Gradients, losses and terms of all models."""
        axes = (0, 0, _tupled_axes(batch), _tupled_axes(draws))
        return vmap(grad_and_value(self._loss, has_aux=True), axes)(weights, lam, batch, draws)

    def _loss(self, weights: Stack, lam: Tensor, batch: Any, draws: Any) -> tuple[Tensor, Stack]:
        """Loss of one model, whose λ takes the place of the objective's."""
        losses = functional_call(self.objective, {**weights, "weights.dispersive.lam": lam}, (batch, draws))
        return losses.total, {"total": losses.total.detach(), **losses.terms}

    def save(self, outcome: State = "running") -> None:
        """Each run as it would save itself; one that cannot, since its weights are not finite, stops no other.

        Args:
            outcome: state of the runs that can be saved.
        """
        refused: list[LabError] = []
        for i, (trainer, folder) in enumerate(zip(self.trainers, self.folders, strict=True)):
            for name, stack in self.weights.items():
                state = self.optimizer.state.get(stack, {})
                moments = {key: value if key == "step" else value[i] for key, value in state.items()}
                trainer.optimizer.state[self._own[i][name]].update(moments)
            try:
                trainer.save()
                folder.note(outcome, trainer.step)
            except LabError as error:
                folder.note("failed", trainer.step, one_line(error))
                refused.append(error)
        if refused:
            raise refused[0]


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> Stack:
    return {name: torch.stack([part[name].detach() for part in parts]) for name in parts[0]}


def _settings(optimizer: Any) -> dict[str, Any]:
    (group,) = optimizer.param_groups
    return {name: group[name] for name in ("lr", "betas", "weight_decay", "eps", "fused")}


def _tupled(parts: Sequence[Any]) -> Any:
    """Named tuples of tensors, or of None, or of more of them, stacked tensor by tensor."""
    if parts[0] is None or isinstance(parts[0], Tensor):
        return parts[0] if parts[0] is None else torch.stack(list(parts))
    fields = [_tupled(field) for field in zip(*parts, strict=True)]
    return type(parts[0])(*fields) if hasattr(parts[0], "_fields") else tuple(fields)


def _tupled_axes(stacked: Any) -> Any:
    """Where vmap finds the models: the first axis of every tensor."""
    if stacked is None or isinstance(stacked, Tensor):
        return None if stacked is None else 0
    return type(stacked)(*map(_tupled_axes, stacked))
