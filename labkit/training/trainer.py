"""The training loop as a generator: ``for report in Trainer(config): …`` is all there is.

A notebook, a widget and the command line drive this same loop: they plot a report, pause between two of them, or leave
the loop. Leaving it in any way, also by an exception or Ctrl-C, saves first if the run has a folder.
"""

import shlex
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from labkit import datasets
from labkit.checks import LabError, require
from labkit.config import Config
from labkit.distributed import any_rank
from labkit.models import Transformer, build_model
from labkit.objective import NO_OWN, Objective, OwnFunctions
from labkit.runtime import Purpose, generator, memory_for, seeded
from labkit.sampling import SampleError, few_steps, sample_network
from labkit.signals import uninterrupted
from labkit.training import checkpoint as ckpt
from labkit.training.ema import Ema
from labkit.training.engine import check_compiler, combined, compile_in_place, fabric_of, micro_batch, negatives
from labkit.training.folder import RunError, RunFolder
from labkit.training.loggers import Name, check_loggers, make_loggers
from labkit.training.meters import Gradients, add_gradients, conflicts, mean_gradients, measure, regularizer_gradients
from labkit.training.sheet import write_sheet
from labkit.training.status import one_line
from labkit.training.stream import Stream, micro_batches
from labkit.types import Losses

SHEET, SHEET_STEPS = 50, 20  # samples, and sampling steps, of the sheet beside each checkpoint


class NonFiniteLoss(LabError, RuntimeError):
    """The loss became NaN or infinite; training stopped before it reached a checkpoint."""


@dataclass(frozen=True)
class Report:
    """Result of one step. Terms stay tensors on their device, so that a report costs nothing."""

    step: int
    """Steps finished, this one included."""
    samples: int
    """Training samples so far, repetitions included."""
    seconds: float
    """Seconds spent in the steps of this run so far, also before a resume, without the meters."""
    terms: dict[str, Tensor]
    """``total`` and the unweighted terms of the base loss (``velocity``, say) and of the regularizers that are on."""
    meters: dict[str, float] = field(default_factory=dict)
    """Meters of the steps that are logged, else empty: geometry and Dispersive Loss of the batch's features, also when
    λ is off ("block1.feature_norm", "block1.dispersive"); the base loss in five parts of [0, 1] ("velocity.t0" to
    "velocity.t4"); angle and ratio between each regularizer's gradient and the base loss's
    ("dispersive.gradient_cosine", "dispersive.gradient_ratio")."""

    def values(self) -> dict[str, float]:
        """Terms and meters as plain numbers (this waits for the device)."""
        return {name: term.item() for name, term in self.terms.items()} | self.meters


def build_network(config: Config, size: int, channels: int, num_classes: int) -> Transformer:
    """The network of a config for images of given dimensions, its initial weights drawn from the config's seed."""
    with seeded(config.seed):
        variance = config.family == "DiT"  # predicted in additional channels
        network = build_model(config.model, size, channels, num_classes, learn_sigma=variance)
    with torch.no_grad():
        for embedding in (*network.x_embedder.parameters(), network.pos_embed):
            embedding.mul_(config.embedding_scale)
    return network


class Trainer:
    """Trains the model of a config; iterating yields one Report a step until ``config.steps``.

    Args:
        config: the experiment.
        run_dir: folder of the run. If it holds a run of the same config, training continues there from its newest
            readable checkpoint; None keeps everything in memory. While this iterates, no other trainer can be created
            or iterated in that folder.
        loggers: ``tensorboard`` or ``wandb``, which get what metrics.csv gets; they need a folder.
        own: functions that take the place of the library's, in memory only: a folder would not keep them.

    Raises:
        RunError: the folder holds a run of another config or other data, or something else.
        BusyError: another trainer is training there.
        ConfigError: a setting does not fit the model or the images.
    """

    @memory_for("the model, its average and its optimizer", "end other programs, or take a smaller model")
    def __init__(
        self,
        config: Config,
        run_dir: str | Path | RunFolder | None = None,
        loggers: Sequence[Name] = (),
        own: OwnFunctions = NO_OWN,
    ) -> None:
        self.config = config
        check_compiler(config)
        images = datasets.load(config.dataset, resident=config.engine.resident)
        network = build_network(config, *images.dimensions)
        network.checkpointing = config.engine.checkpointing
        with seeded(generator(config.seed, Purpose.PROJECTOR).initial_seed()):
            objective = Objective(network, config, own=own)
        pixels = self._teacher_needs_pixels(images)
        self.fabric = fabric_of(config)
        require(not own or run_dir is None, "own", [*own], "a folder cannot keep functions; leave run_dir away")
        require(not loggers or run_dir is not None, "logger", loggers, "it belongs to a folder; name one")
        check_loggers(loggers)
        # Last, when the config has passed all checks: a folder keeps the config that it was created with.
        self.folder = None if run_dir is None else self._open(run_dir)
        if config.engine.compile:
            compile_in_place(objective)
        self.ema = Ema(network.to(self.fabric.device), config.ema_decay)
        trained = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, **asdict(config.optimizer), fused=True)
        self.network, self.projector, self.banks = network, objective.projector, objective.banks
        self._shared = [p for p in network.parameters() if p.requires_grad]  # by all losses; the projector is REPA's
        self.objective, self.optimizer = self.fabric.setup(objective, optimizer)
        self.stream = Stream(
            images,
            config.batch_size,
            config.seed,
            self.fabric.device,
            rank=self.fabric.global_rank,
            ranks=self.fabric.world_size,
            pixels=pixels,
            flips=config.flips,
            two_views=config.contrastive.lam is not None,
            pairs=config.family == "MeanFlow",
        )
        self.step = self.saved_step = self._latest = 0
        self.seconds = self._began = 0.0
        self._stopping = False
        if self.folder is not None:
            self._restore(self.folder.newest(config), self.folder.path)
            self._latest = max(self.folder.checkpoints, default=0)  # may be one that cannot be read
            self.fabric.loggers.extend(make_loggers(loggers, self.folder.path, config, self.step))

    @property
    def leads(self) -> bool:
        """Whether this process writes: the only one, or the first of the ranks."""
        return self.fabric.is_global_zero

    @property
    def negatives(self) -> int:
        """Number of samples that repel each other: the B of the floor −log B."""
        return negatives(self.config, self.fabric.world_size)

    def describe(self) -> str:
        """One sentence on batch, device, precision and negatives."""
        engine, ranks, batch = self.config.engine, self.fabric.world_size, self.config.batch_size
        share = micro_batch(self.config, ranks)
        pieces = "" if share == batch else f" = {ranks} ranks × {engine.accumulate} × {share}"
        switches = [name for name in ("compile", "checkpointing", "resident") if getattr(engine, name)]
        return (
            f"Batches of {batch}{pieces} on {self.fabric.device.type}, {', '.join([engine.precision, *switches])}; "
            f"{self.negatives} samples repel each other (the floor is −log {self.negatives})."
        )

    def stop(self) -> None:
        """Save and leave, as Ctrl-C does: at once, or with several ranks after the step that all agree on."""
        if self.fabric.world_size == 1:
            raise KeyboardInterrupt
        self._stopping = True

    def _open(self, run_dir: str | Path | RunFolder) -> RunFolder:
        """The run's folder, which the first rank creates before the others go on."""
        folder = run_dir if isinstance(run_dir, RunFolder) else RunFolder(run_dir)
        if self.leads:
            folder.begin(self.config, datasets.identify(self.config.dataset))
        self.fabric.barrier()
        return folder

    def _teacher_needs_pixels(self, images: datasets.Source) -> bool:
        """Whether REPA's teacher needs the images beside their latents."""
        repa = self.config.repa
        needed = repa.lam is not None and repa.teacher != "digits" and images.channels == 4
        why = f"its teacher needs images, but {self.config.dataset} has latents alone; prepare it from a folder"
        require(not needed or images.files is not None, "repa.lam", repa.lam, why)
        return needed

    @property
    def samples(self) -> int:
        """Training samples so far, repetitions included."""
        return self.step * self.config.batch_size

    def __len__(self) -> int:
        """Steps that are left."""
        return max(self.config.steps - self.step, 0)

    def __iter__(self) -> Generator[Report]:
        with self._owning():
            try:
                while self.step < self.config.steps:
                    with memory_for(f"step {self.step + 1}", self._needs_less()):
                        report = self._advance()
                    due = self._due
                    if due:
                        self.save()
                        self._write_samples()
                    if self.folder is not None and self.leads:
                        self.folder.beat(self.step, due or self._logs(self.step))
                    yield report
                    if self._agreed_to_stop():
                        raise KeyboardInterrupt
            except NonFiniteLoss:
                raise  # this state leads to the same bad step again: the older checkpoint stays the newest
            except BaseException:  # Ctrl-C, a closed generator, an error in the code that reads the reports
                self.save()
                raise
            self.save()

    @contextmanager
    def _owning(self) -> Iterator[None]:
        """Own the run's folder during training, and keep its status current; a finished run stays as it is."""
        lost = self._due and self.folder is not None and not self._sheet.exists()  # killed between checkpoint and sheet
        if self.folder is None or not self.leads or (len(self) == 0 and self.saved_step == self.step and not lost):
            yield
            return
        with self.folder.writing():
            latest = max(self.folder.checkpoints, default=0)
            if latest > max(self._latest, self.saved_step) and self.fabric.world_size == 1:
                self._restore(self.folder.newest(self.config), self.folder.path)  # another trainer went on meanwhile
            self.folder.rewind(self.step)
            self.folder.note("running", self.step)
            status = "failed"
            try:
                for logger in self.fabric.loggers:
                    getattr(logger, "experiment", None)  # begins it: what it lacks is said before the first step
                if lost:
                    self._write_samples()
                yield
                status = "success"
            except (KeyboardInterrupt, GeneratorExit):  # Ctrl-C, or the loop was left
                status = "stopped"
                self.folder.note("stopped", self.step)
                raise
            except BaseException as error:
                self.folder.note("failed", self.step, one_line(error))
                raise
            finally:
                for logger in self.fabric.loggers:
                    logger.finalize(status)
            self.folder.note("finished", self.step)

    def _advance(self) -> Report:
        """One optimizer step."""
        self._began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)  # first: a step that Ctrl-C cut short leaves gradients behind
        log = self._logs(self.step + 1)
        parts, gradients = self._backward(log)
        # On a GPU the look would wait for the device, so it is rare there.
        look = log or self.fabric.device.type == "cpu"
        losses = combined(parts, look)
        if look:
            self._check(losses.total, losses.terms)
        with self._clock_stopped():  # the meters are not part of a regularizer's cost
            meters = self._measure(losses, gradients) if log else {}
        if self.config.engine.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.engine.clip)
        with uninterrupted():
            self.optimizer.step()
            self.ema.update(self.step)
            self.step += 1
            self.seconds += time.perf_counter() - self._began
            terms = {"total": losses.total.detach(), **losses.terms}
            report = Report(self.step, self.samples, self.seconds, terms, meters)
            if log and self.folder is not None and self.leads:
                self.folder.log(report.step, report.samples, report.seconds, report.values())
        if log and self.leads and self.fabric.loggers:
            self.fabric.log_dict(report.values(), report.step)
        return report

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """Leave some work out of a step's seconds."""
        stopped = time.perf_counter()
        yield
        self._began += time.perf_counter() - stopped

    def _backward(self, log: bool) -> tuple[list[Losses], Gradients]:
        """Leave the step's gradient in the parameters; returns the losses of each micro-batch and, for a logged step,
        the regularizers' gradients."""
        parts: list[Losses] = []
        gradients, count = {}, self.config.engine.accumulate
        for batch, draws in micro_batches(*self.stream.at(self.samples), count):
            last = len(parts) + 1 == count
            with self.fabric.no_backward_sync(self.objective, enabled=not last):
                losses = self.objective(batch, draws)
                if log:
                    with self._clock_stopped():
                        gradients = add_gradients(gradients, regularizer_gradients(losses, self._shared, count))
                self.fabric.backward(losses.total / count)
            parts.append(losses if log else losses._replace(features={}, weighted={}))
        return parts, gradients

    def _measure(self, losses: Losses, gradients: Gradients) -> dict[str, float]:
        """Meters of a step, measured by the first rank on the gradients of all."""
        gradients = mean_gradients(gradients)
        if not self.leads:
            return {}
        return measure(losses, self.config) | conflicts(gradients, self._shared, self.config.engine)

    def _agreed_to_stop(self) -> bool:
        """Whether any rank has to stop. On GPUs the ranks vote at every tenth step only, since a vote waits."""
        every = 1 if self.fabric.device.type == "cpu" else 10
        return self.step % every == 0 and any_rank(self._stopping, self.fabric.device)

    @property
    def _due(self) -> bool:
        """Whether a checkpoint and a sheet belong to this step."""
        return self.step > 0 and (self.step % self.config.save_every == 0 or self.step == self.config.steps)

    @property
    def _sheet(self) -> Path:
        assert self.folder is not None
        return self.folder.sheet(self.step)

    def _logs(self, step: int) -> bool:
        """Whether a step is logged: each ``log_every``-th, the last, and more at the start, where much changes."""
        every = self.config.log_every
        early = every >= 10 and step < every and (step == 1 or step % (every // 5) == 0)
        return early or step % every == 0 or step == self.config.steps

    def _check(self, total: Tensor, terms: dict[str, Tensor]) -> None:
        if torch.isfinite(total):
            return
        bad = [f"{name} = {term.item()}" for name, term in terms.items() if not torch.isfinite(term)] or ["total"]
        raise NonFiniteLoss(f"The loss of step {self.step + 1} is not finite ({', '.join(bad)}); {self._remedy()}")

    def _remedy(self) -> str:
        """The last checkpoint, settings to lower, and the command that goes on from the one with the other."""
        c, saved = self.config, self.saved_step
        lams = "".join(f" or {name}.lam (now {getattr(c, name).lam})" for name in c.regularizers)
        lower = f"a lower optimizer.lr (now {c.optimizer.lr}){lams}"
        if self.folder is None or not saved:
            return f"nothing was saved yet. Train{'' if self.folder is None else ' in another folder'} with {lower}."
        run, out = (shlex.quote(str(self.folder.path) + end) for end in ("", "-lower"))
        again = f"labkit fork {run} --at {saved} --optimizer.lr {c.optimizer.lr / 2:g} --out {out}"
        return (
            f"the last good checkpoint is at step {saved}. Go on from it, or an earlier one, with {lower}: `{again}`."
        )

    def _needs_less(self) -> str:
        """Settings of a step that needs less memory."""
        c = self.config
        first = "" if c.engine.checkpointing else "set engine.checkpointing, with which a run can go on; or, "
        settings = f"engine.accumulate (now {c.engine.accumulate}) or a smaller batch_size (now {c.batch_size})"
        return f"{first}in another folder, take a larger {settings}"

    def save(self) -> None:
        """Write a checkpoint now, unless this step has one or there is no folder."""
        if self.folder is None or not self.leads or self.step == self.saved_step:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self._named().values()):
            bad = f"The weights after step {self.step} are not finite, so they were not saved"
            raise NonFiniteLoss(f"{bad}; {self._remedy()}")
        parts = {part: module.state_dict() for part, module in self._modules().items()}
        parts["optimizer"] = ckpt.optimizer_tensors(self.optimizer, self._named())
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        data = "" if self.folder.data is None else self.folder.data.to_json()
        self.folder.save(ckpt.Checkpoint(self.step, self.samples, self.config.to_json(), tensors, self.seconds, data))
        self.saved_step = self.step

    def _modules(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by the prefix of their tensors there."""
        modules: dict[str, nn.Module] = {"model": self.network, "ema": self.ema.network}
        if self.projector is not None:
            modules["projector"] = self.projector
        return modules | ({"bank": self.banks} if self.banks else {})

    def _named(self) -> dict[str, nn.Parameter]:
        """The parameters, by the names of their moments in a checkpoint."""
        named = dict(self.network.named_parameters())
        return named | ({} if self.projector is None else dict(self.projector.named_parameters(prefix="projector")))

    def _write_samples(self) -> None:
        if self.folder is not None and self.leads:
            try:
                samples = sample_network(self.ema.network, self.config, SHEET, **few_steps(self.config, SHEET_STEPS))
            except SampleError as error:  # a few steps may overflow where more do not: training goes on
                warnings.warn(f"No sheet of samples at step {self.step}: {error}", stacklevel=2)
                return
            write_sheet(samples.x, self._sheet)

    def _restore(self, state: ckpt.Checkpoint | None, path: Path) -> None:
        if state is None:
            return
        if not state.part("model."):
            raise RunError(f"{path} is an export of averaged weights; go on in the folder that it was exported from.")
        for part, module in self._modules().items():
            tensors = state.part(f"{part}.")
            if tensors or part != "bank":  # which a fork begins empty
                module.load_state_dict(tensors)
        ckpt.load_optimizer(self.optimizer, self._named(), state.part("optimizer."))
        self.step = self.saved_step = state.step
        self.seconds = state.seconds
