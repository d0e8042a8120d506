"""An experiment's settings: frozen dataclasses that refuse a bad value with its name, the value and what is allowed.

A config is stored as ``config.json`` in the folder of its run and reads back to an equal object. Everything that can
change a result is in here; the folder of a run and how it is displayed are not.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from labkit.checks import (
    ConfigError,
    as_tuple,
    check_flag,
    check_number,
    check_seed,
    check_whole,
    choose,
    finite,
    require,
)
from labkit.losses import Contrastive, Dispersive, MeanFlow, Repa
from labkit.losses.weight import warm_up
from labkit.models.sizes import Family, parse_name
from labkit.paths import Flow

REGULARIZERS = ("dispersive", "contrastive", "repa")
"""Names of the regularizers' settings in a config."""
LATER = {  # fields that the configs of earlier versions lack; their defaults are what those versions did
    *("flow", "meanflow", "engine", "keep_every", "flips", "embedding_scale"),
    *("meanflow.guidance_interval", "repa.antialias", "dispersive.bank", "contrastive.bank"),
}
FREE = {
    *("steps", "log_every", "save_every", "keep_last", "keep_every"),
    *("engine.compile", "engine.checkpointing", "engine.resident"),
}
"""Settings that may change when a run continues: its length, its speed, and which files it keeps."""
FORKED = ("dispersive.", "contrastive.", "repa.lam", "repa.schedule", "optimizer.")
"""How settings begin that may also change where a run forks: weights, moments, data and noise mean there what they
meant before."""
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Optimizer:
    """AdamW, constant learning rate."""

    lr: float = 1e-4
    """Learning rate, above 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decays of the averages of the gradient and of its square, each in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay, at least 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", as_tuple(self.betas))
        check_number("optimizer.lr", self.lr, above=0)
        check_number("optimizer.weight_decay", self.weight_decay, least=0)
        fit = len(self.betas) == 2 and all(finite(beta) and 0 <= beta < 1 for beta in self.betas)
        require(fit, "optimizer.betas", self.betas, "give two numbers in [0, 1)")


@dataclass(frozen=True)
class Engine:
    """How a step is computed: for speed on a GPU, and for models that hardly fit its memory."""

    precision: Precision = "float32"
    """Precision of matrix products. Weights, their moments and averages, and the regularizers stay float32."""
    compile: bool = False
    """Compile the objective: minutes at the start, then faster steps. It pays on a GPU."""
    accumulate: int = 1
    """Micro-batches in which a rank computes its share of a batch, one after another.
    Negatives in local scope are those of a micro-batch."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third more time, little memory."""
    clip: float | None = None
    """Largest norm of the gradient, which is scaled down to it. None leaves it alone, as SiT does; REPA takes 1."""
    resident: bool = False
    """Hold the whole of a store on the device. Else batches are read from its files."""

    def __post_init__(self) -> None:
        choose(self.precision, Precision, "engine.precision")
        for name in ("compile", "checkpointing", "resident"):
            check_flag(f"engine.{name}", getattr(self, name))
        check_whole("engine.accumulate", self.accumulate)
        check_number("engine.clip", self.clip, above=0, optional=True)


@dataclass(frozen=True)
class Config:
    """All settings of one training run."""

    dataset: str = "digits"
    """Name of an embedded data set (digits, letters, emoji, …), or folder of a store that labkit prepare wrote."""
    model: str = "SiT-Nano/2"
    """Family (SiT, DiT or MeanFlow), size and patch, as in SiT-B/2. The family decides what is trained."""
    flow: Flow = field(default_factory=Flow)
    """Flow-matching settings (SiT models)."""
    meanflow: MeanFlow = field(default_factory=MeanFlow)
    """MeanFlow settings (MeanFlow models)."""
    dispersive: Dispersive = field(default_factory=Dispersive)
    contrastive: Contrastive = field(default_factory=Contrastive)
    repa: Repa = field(default_factory=Repa)
    optimizer: Optimizer = field(default_factory=Optimizer)
    engine: Engine = field(default_factory=Engine)
    batch_size: int = 128
    """Samples of one optimizer step, of all ranks and micro-batches together."""
    steps: int = 3000
    """Train up to this many steps. A finished run continues when it is given more."""
    seed: int = 0
    """Seed of initial weights, order of the data, noise, times and dropped labels."""
    flips: bool = True
    """Mirror half of the images, where the store was prepared with flips; else no image is mirrored."""
    label_drop: float = 0.1
    """Share of labels replaced by the null class, which teaches the unconditional model that guidance needs."""
    embedding_scale: float = 1.0
    """Factor above 0 of the initial patch and position embeddings: larger features from the start, without any loss."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, from which samples are drawn; in [0, 1)."""
    log_every: int = 25
    """Steps between two rows of losses and geometry in the log. If it is 10 or more, the first ones are denser."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep_last: int = 2
    """Number of newest checkpoints that stay on disk."""
    keep_every: int | None = None
    """Checkpoints at multiples of this number of steps stay as well."""

    def __post_init__(self) -> None:
        has_name = isinstance(self.dataset, str) and self.dataset != ""
        require(has_name, "dataset", self.dataset, "name an embedded set, such as 'digits', or the folder of a store")
        require(isinstance(self.model, str), "model", self.model, "name it as in 'SiT-Nano/2'")
        groups = _groups(type(self))
        for name, group in groups.items():
            value = getattr(self, name)
            require(type(value) is group, name, value, f"give its settings as {group.__name__}(…)")
        for name, family in {"flow": "SiT", "meanflow": "MeanFlow"}.items():
            for setting in dataclasses.fields(groups[name]) if family != self.family else ():
                value = getattr(getattr(self, name), setting.name)
                only = f"{self.family} has no such setting, only {family} has; leave it at {setting.default!r}"
                require(value == setting.default, f"{name}.{setting.name}", value, only)
        check_whole("batch_size", self.batch_size, 2, why="since one sample forms no pair to repel")
        for name in ("steps", "log_every", "save_every", "keep_last"):
            check_whole(name, getattr(self, name))
        check_whole("keep_every", self.keep_every, optional=True)
        for name in ("dispersive", "contrastive"):
            group = getattr(self, name)
            fits = group.chunk is None or self.batch_size % group.chunk == 0  # the trainer checks the ranks' shares
            require(fits, f"{name}.chunk", group.chunk, f"it must divide batch_size = {self.batch_size}")
            computed = group.lam is not None or group is self.repelling  # the meters compute it even if it is off
            few = computed and group.variant == "covariance" and self.batch_size < 3
            require(not few, "batch_size", self.batch_size, "the covariance of two samples is constant, take 3")
        check_seed(self.seed)
        check_flag("flips", self.flips)
        check_number("label_drop", self.label_drop, least=0, below=1)
        check_number("embedding_scale", self.embedding_scale, above=0)
        check_number("ema_decay", self.ema_decay, least=0, below=1)

    @property
    def family(self) -> Family:
        """The model's family: a flow (SiT), diffusion (DiT) or the average velocity (MeanFlow)."""
        return parse_name(self.model).family

    @property
    def regularizers(self) -> tuple[str, ...]:
        """The names of the regularizers that are on."""
        return tuple(name for name in REGULARIZERS if getattr(self, name).lam is not None)

    def baseline(self) -> "Config":
        """A copy with every regularizer off, metered at the same blocks by the same loss as this one."""
        off = {name: dataclasses.replace(getattr(self, name), lam=None) for name in REGULARIZERS}
        shared = [field.name for field in dataclasses.fields(Dispersive) if field.name != "lam"]
        off["dispersive"] = Dispersive(**{name: getattr(self.repelling, name) for name in shared})
        if self.regularizers == ("repa",) and self.repa.block is not None:
            off["dispersive"] = dataclasses.replace(off["dispersive"], blocks=(self.repa.block,))
        return dataclasses.replace(self, **off)

    @property
    def repelling(self) -> Dispersive:
        """The settings that dispersion is metered with: the contrastive ones if only those are on."""
        only_contrastive = self.dispersive.lam is None and self.contrastive.lam is not None
        return self.contrastive if only_contrastive else self.dispersive

    def replace(self, **changes: Any) -> "Config":
        """A copy with some fields changed; names like ``lam`` and ``tau`` reach into ``dispersive``."""
        names = {f.name for f in dataclasses.fields(Dispersive)}
        inner = {name: changes.pop(name) for name in list(changes) if name in names}
        if inner:
            changes["dispersive"] = dataclasses.replace(changes.get("dispersive", self.dispersive), **inner)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """JSON text from which ``from_json`` makes an equal config."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=lambda number: number.item())

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Read back what ``to_json`` wrote; groups that came later take their defaults.

        Other missing fields, and unknown ones, are refused by name.
        """
        try:
            return _build(cls, json.loads(text), "")
        except json.JSONDecodeError as error:
            raise ConfigError(f"The config is not valid JSON ({error}); it may have been cut or edited.") from error

    def differences(self, other: "Config") -> list[str]:
        """The fields in which two configs differ, as 'name: mine → theirs'."""
        mine, theirs = flat(dataclasses.asdict(self)), flat(dataclasses.asdict(other))
        return [f"{name}: {mine[name]!r} → {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]

    def breaks(self, other: "Config") -> list[str]:
        """The differences that make ``other`` a new experiment, which cannot continue from this one's checkpoints."""
        return [text for text in self.differences(other) if text.partition(":")[0] not in FREE]

    def outgrows(self, other: "Config") -> list[str]:
        """The differences that make ``other`` no fork of this experiment: it could not go on from this one's state."""
        changed = [text for text in self.breaks(other) if not text.startswith(FORKED)]
        if (self.repa.lam is None) != (other.repa.lam is None):  # only one of the two has a projector
            changed.append(f"repa.lam: {self.repa.lam} → {other.repa.lam}")
        return changed


def _groups(cls: type) -> dict[str, type]:
    """The fields of a settings class that are settings themselves, and their classes."""
    kinds = {field.name: field.type for field in dataclasses.fields(cls)}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _build(cls: type, values: Any, prefix: str) -> Any:
    require(isinstance(values, dict), prefix.rstrip(".") or "config", values, "a group of settings is expected")
    if prefix.rstrip(".") in REGULARIZERS and "schedule" not in values:  # written when there was only a warm-up
        steps = values.get("warmup", 0)
        values = {name: value for name, value in values.items() if name != "warmup"}
        values["schedule"] = warm_up(steps) if steps else ()
    if prefix == "repa." and "antialias" not in values and values.get("lam") is not None:
        values = {**values, "antialias": values.get("teacher") == "digits"}  # no other teacher was resampled with it
    names = {field.name for field in dataclasses.fields(cls)}
    for name in values.keys() ^ {name for name in names if name in values or prefix + name not in LATER}:
        fault = "is missing" if name in names else f"is not a setting of this version ({', '.join(sorted(names))})"
        raise ConfigError(f"{prefix}{name} {fault}; the config comes from another version of labkit or was edited.")
    nested = {n: _build(kind, values[n], f"{prefix}{n}.") for n, kind in _groups(cls).items() if n in values}
    lists = {n: _tuples(v) for n, v in values.items() if isinstance(v, list)}
    return cls(**{**values, **lists, **nested})


def _tuples(value: Any) -> Any:
    """Lists as tuples, those inside them, too: JSON knows no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as on the command line."""
    settings: dict[str, Any] = {}
    for name, value in values.items():
        settings |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return settings
