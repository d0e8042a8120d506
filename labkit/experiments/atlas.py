"""The atlas: results of many runs, which ship in ``data/atlas/``.

    atlas.json       format, command, date, seeds, commits and machines of the runs, checksums of the other files
    conditions.json  condition → config, the steps at which conditions are compared, and the questions
    table.parquet    condition, seed, step, block, sampler, measure, value; the real images beside them
    samples.npz      condition → 20 images of seed 0, all from the same noise and labels
    findings.parquet question, condition, measure, …: differences from a baseline, paired by seed
    maps.parquet     places of held-out images: PCA on the union of some conditions, and UMAP
    stopping.parquet runs on few images, measured every 100 steps: condition, seed, step, measure, value, …
    curves.parquet   condition, seed, step, name, value: what some conditions logged in training
    CLAIMS.md        the paper's claims beside what was measured
    PAYS.md          by data, model, age and metric: better with the loss, worse, or not told apart

``data/build_atlas.py`` makes it. A condition is a config without its seed; its point holds the coordinates that the
explorer has controls for. Only what was measured can be looked up: nothing is interpolated between points.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from labkit import recipes
from labkit.checks import LabError, require
from labkit.config import Config
from labkit.evaluation import REAL
from labkit.evaluation.settings import whole_set
from labkit.experiments.statistics import LEVEL, paired_differences
from labkit.losses import Contrastive
from labkit.losses.weight import describe_schedule
from labkit.metrics.table import three_digits
from labkit.objective import blocks_of
from labkit.ops import to_floats
from labkit.runtime import data_dir

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-atlas-2"
SHEET = 20
"""Samples of each condition that ship."""
ZERO = 0.02  # stands for λ = 0 and τ = 0 where ratios are compared
UNLIKE = {"dataset": 400, "model": 200, "also": 100, "noise": 30, "variant": 30, "block": 30}
"""Coordinate → how far apart two conditions are that differ in it; λ, τ and α count by their values."""
VARIANTS = {
    "infonce_l2": "InfoNCE-L2",
    "infonce_cosine": "InfoNCE-cosine",
    "hinge": "hinge",
    "covariance": "covariance",
}
"""Variant → its name for people."""
COORDINATES = ("dataset", "model", "variant", "lam", "tau", "block", "alpha", "noise", "also")
"""Keys of ``point``."""
DATASETS = {"digits-few": "200 digits", "digits-unlabelled": "digits without labels", "emoji-16": "emoji"}


class Band(NamedTuple):
    """One measure of one condition over its seeds."""

    values: "pd.Series"
    """By seed."""
    mean: float
    low: float
    high: float
    """95 % interval of the mean (Student's t)."""
    first: float
    last: float
    """Where one more seed is expected with 95 %: mean ± t·s·√(1 + 1/n), wider than the interval of the mean."""

    @property
    def n(self) -> int:
        return len(self.values)

    def holds(self, value: float) -> bool:
        """Whether a run with this value would be nothing unusual."""
        return bool(self.first <= value <= self.last)


def band(values: "pd.Series") -> Band:
    """Band of a measure's values by seed; of fewer than two it is infinite."""
    from scipy.stats import t as student

    n, mean = len(values), float(values.mean())
    if n < 2:
        return Band(values, mean, -math.inf, math.inf, -math.inf, math.inf)
    reach = float(student.ppf((1 + LEVEL) / 2, n - 1) * values.std())
    interval, prediction = reach / n**0.5, reach * (1 + 1 / n) ** 0.5
    return Band(values, mean, mean - interval, mean + interval, mean - prediction, mean + prediction)


class Outcome(NamedTuple):
    """Some conditions of the atlas over their seeds, and what they logged on the way."""

    table: "pd.DataFrame"
    """condition, seed, step, measure, value: of samples by the usual sampler, of geometry at the regularized block;
    *real against real* beside them, which has neither seed nor step."""
    curves: "pd.DataFrame"
    """condition, seed, step, name, value; empty for conditions whose log did not ship."""

    @property
    def conditions(self) -> list[str]:
        return [name for name in self.table["condition"].unique() if name != REAL]

    @property
    def steps(self) -> list[int]:
        """The steps at which all of these conditions were evaluated."""
        runs = self.table[self.table["step"].notna()]
        each = runs.groupby("condition")["step"].agg(set)
        return sorted(map(int, set.intersection(*each)))

    def at(self, step: int | None = None) -> "pd.DataFrame":
        """The rows of one step, by default the last, and those of real images."""
        step = self.steps[-1] if step is None else step
        require(step in self.steps, "step", step, f"choose one of {', '.join(map(str, self.steps))}")
        return self.table[(self.table["step"] == step) | (self.table["condition"] == REAL)]

    def ranges(self, measures: Sequence[str], step: int | None = None) -> "pd.DataFrame":
        """Measure × condition: 'mean (lowest … highest)' over the seeds, at one step; three digits."""
        groups = self.at(step).groupby(["measure", "condition"], sort=False)["value"]
        cells = groups.agg(
            lambda v: (
                three_digits(v.mean())
                + (f"  ({three_digits(v.min())} … {three_digits(v.max())})" if len(v) > 1 else "")
            )
        )
        table = cells.unstack("condition").reindex(measures).fillna("–")
        return table.rename_axis(index=None, columns=None)


def point(config: Config) -> dict[str, Any]:
    """Coordinates of a config: those that the explorer has controls for. A variant without τ has τ = 0."""
    on = config.contrastive if config.contrastive.lam is not None else config.dispersive
    depth, blocks = len(blocks_of(type(on)(blocks="all"), config.model)), blocks_of(on, config.model)
    optimizer, usual = config.optimizer, recipes.letters() if config.dataset == "letters" else recipes.digits()
    rate = 1e-3 if "Micro" in config.model else usual.optimizer.lr
    also = {
        "REPA": config.repa.lam is not None,
        f"chunks of {on.chunk}": on.chunk is not None,
        f"a bank of {on.bank}": on.negatives == "bank",
        describe_schedule(on.schedule): on.schedule != (),
        f"batches of {config.batch_size}": config.batch_size != usual.batch_size,
        f"learning rate {optimizer.lr:g}": optimizer.lr != rate,
        "no momentum": optimizer.betas[0] == 0,
        f"weight decay {optimizer.weight_decay:g}": optimizer.weight_decay > 0,
        f"embeddings × {config.embedding_scale:g}": config.embedding_scale != 1,
    }
    where = "all" if len(blocks) == depth > 1 else ", ".join(map(str, blocks))
    return {
        "dataset": config.dataset,
        "model": config.model,
        "variant": on.variant,
        "lam": float(on.lam or 0.0),
        "tau": on.arguments.get("tau", 0.0),
        "block": where,
        "alpha": on.alignment_weight if isinstance(on, Contrastive) else 0.0,
        "noise": on.noise if isinstance(on, Contrastive) else "one view",
        "also": ", ".join(name for name, there in also.items() if there) or "nothing else",
    }


def describe_point(at: Mapping[str, Any]) -> str:
    """Coordinates as a name for people: 'SiT-Nano/4, λ 0.5, τ 0.5'; what is as usual goes without saying."""
    words = [at["model"], DATASETS.get(at["dataset"], "" if at["dataset"] == "digits" else at["dataset"])]
    if at["lam"]:
        words += ["" if at["variant"] == "infonce_l2" else VARIANTS.get(at["variant"], at["variant"])]
        words += [f"λ {at['lam']:g}", f"τ {at['tau']:g}" if at["tau"] else ""]
        words += [f"α {at['alpha']:g}, {at['noise']} noise" if at["noise"] != "one view" else ""]
        words += ["" if at["block"] == "1" else "all blocks" if at["block"] == "all" else f"block {at['block']}"]
    elif at["also"] != "REPA":
        words += ["baseline"]
    return ", ".join(word for word in [*words, "" if at["also"] == "nothing else" else at["also"]] if word)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Contents of ``data/atlas/``; ``Atlas.load()`` reads them and checks them against their checksums."""

    folder: Path
    record: dict[str, Any]
    conditions: dict[str, Config]
    """Condition → config, of seed 0."""
    compared_at: dict[str, int]
    """Data set → the step at which its conditions are compared; some are measured at other steps, too."""
    questions: dict[str, str]
    """Question → its text."""
    table: "pd.DataFrame"

    @classmethod
    @cache
    def load(cls, folder: Path | None = None) -> "Atlas":
        """Load the atlas that ships, or the one in a folder.

        Raises:
            LabError: it is missing, of another version, or a file is not the one that was shipped.
        """
        import pandas as pd

        folder = data_dir() / "atlas" if folder is None else folder
        restore = "what was shipped comes back with `git checkout data/atlas/{}` (keep a copy of your own edits)"
        try:
            record = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LabError(f"There is no atlas in {folder} ({error}); {restore.format('atlas.json')}.") from error
        if record.get("format") != FORMAT:
            other = f"{record.get('format')!r} instead of {FORMAT!r}; take the version of labkit that wrote it"
            raise LabError(f"{folder} holds {other}.")
        for name, digest in record["sha256"].items():
            there = (folder / name).read_bytes() if (folder / name).is_file() else b""
            if hashlib.sha256(there).hexdigest() != digest:
                raise LabError(f"{folder / name} is missing or not as it was shipped; {restore.format(name)}.")
        content = json.loads((folder / "conditions.json").read_text(encoding="utf-8"))
        conditions = {name: Config.from_json(json.dumps(tree)) for name, tree in content["conditions"].items()}
        table = pd.read_parquet(folder / "table.parquet")
        return cls(folder, record, conditions, content["compared_at"], content["questions"], table)

    def describe(self, conditions: Sequence[str] | None = None) -> str:
        """Seeds, commits, machines and steps of some conditions, by default of all, as text."""
        names = list(self.conditions) if conditions is None else list(conditions)
        seeds = [self.record["seeds_of_each"][name] for name in names]
        fewest, most = min(seeds), max(seeds)
        each = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' if most > 1 else ''}"
        rows = self.table[self.table["condition"].isin(names)]
        compared = {whole_set(self._config(name).dataset) for name in names}
        steps = ", ".join(f"{step:,} steps on {name}" for name, step in self.compared_at.items() if name in compared)
        hours = round(rows.groupby("run")["seconds"].max().sum() / 3600, 1)
        commits, machines = (sorted(rows[name].dropna().unique()) for name in ("commit", "machine"))
        return (
            f"{len(names)} conditions, {each} of each: {sum(seeds)} runs, {hours:g} core hours of training. Compared\n"
            f"after {steps}. Commit{'s' if len(commits) > 1 else ''} {', '.join(commits)};\n"
            f"{'; '.join(machines)}."
        )

    def step(self, condition: str) -> int:
        """The step at which a condition is compared with others."""
        config = self._config(condition)
        return self.compared_at[whole_set(config.dataset)]

    def band(
        self,
        condition: str,
        measure: str,
        *,
        step: int | None = None,
        block: int | None = None,
        sampler: str | None = None,
    ) -> Band:
        """Values of a measure of a condition by seed, and their intervals.

        Args:
            step: by default the one of comparison.  block: of geometry; by default the first regularized one.
            sampler: description of the sampler; by default that of the model's usual one.

        Raises:
            ConfigError: this was not measured; the message says what was.
        """
        at = self.step(condition) if step is None else step
        rows = self._by_condition[condition]
        rows = rows[(rows["measure"] == measure) & (rows["step"] == at)]
        remedy = f"{condition} was not measured so at step {at}; measured were {', '.join(self.measures(condition))}"
        require(len(rows) > 0, "measure", measure, remedy)
        rows = self._placed(condition, rows, block, sampler)
        require(len(rows) > 0, "block" if sampler is None else "sampler", sampler or block, remedy)
        return band(rows.set_index("seed")["value"])

    def outcome(self, conditions: Sequence[str]) -> Outcome:
        """Conditions of one data set side by side, in this order, at every step at which they were evaluated.

        Raises:
            ConfigError: no such condition.
        """
        import pandas as pd

        datasets = {whole_set(self._config(name).dataset) for name in conditions}
        real = self.table[(self.table["run"] == REAL) & self.table["dataset"].isin(datasets)]
        usual = [self._placed(name, self._by_condition[name]) for name in conditions]
        rows = pd.concat([*usual, real], ignore_index=True)
        curves = pd.concat([self.curves[self.curves["condition"] == name] for name in conditions], ignore_index=True)
        return Outcome(rows[["condition", "seed", "step", "measure", "value"]], curves)

    def _placed(
        self, condition: str, rows: "pd.DataFrame", block: int | None = None, sampler: str | None = None
    ) -> "pd.DataFrame":
        """A condition's rows at one block, by default the first regularized, by one sampler, by default the usual."""
        block = self.block(condition) if block is None else block
        sampler = next(iter(rows["sampler"].dropna()), None) if sampler is None else sampler
        here = rows["block"].isna() | (rows["block"] == block)
        return rows[here & (rows["sampler"].isna() | (rows["sampler"] == sampler))]

    def measures(self, condition: str) -> list[str]:
        return list(dict.fromkeys(self._by_condition[condition]["measure"]))

    def block(self, condition: str) -> int:
        """The first block that a condition regularizes, or that its baseline is metered at."""
        config = self._config(condition)
        return blocks_of(config.repelling, config.model)[0]

    def real(self, condition: str, measure: str) -> float | None:
        """The measure of real images of the condition's data set; None where it has no meaning."""
        rows = self.table[(self.table["run"] == REAL) & (self.table["measure"] == measure)]
        rows = rows[rows["dataset"] == whole_set(self._config(condition).dataset)]
        return float(rows["value"].iloc[0]) if len(rows) else None

    def baseline(self, condition: str) -> str:
        """The condition with the same settings but no regularizer; a baseline's is itself."""
        return self._baselines[condition]

    def difference(self, condition: str, measure: str, **where: Any) -> "pd.Series":
        """A condition minus its baseline by seed, as a row of ``paired_differences``; its p is of this one alone."""
        import pandas as pd

        other = self.baseline(condition)
        require(other != condition, "condition", condition, "it is a baseline itself")
        if where.get("block") is None:
            where["block"] = self.block(condition)
        bands = {name: self.band(name, measure, **where) for name in (other, condition)}
        rows = [each.values.reset_index().assign(run=name, measure=measure) for name, each in bands.items()]
        return paired_differences(pd.concat(rows), other).iloc[0]

    def title(self, condition: str) -> str:
        """Name of a condition for people; ``name@500`` in findings is a condition at an earlier step."""
        name, _, step = condition.partition("@")
        return describe_point(self.points[name]) + (f", after {int(step):,} steps" if step else "")

    def sheet(self, condition: str) -> Float[Tensor, "n c h w"]:
        """Samples of the run of seed 0 in [-1, 1], from the same noise and labels for all conditions."""
        return to_floats(torch.from_numpy(self.samples[condition]))

    @cached_property
    def points(self) -> dict[str, dict[str, Any]]:
        """Condition → its coordinates."""
        return {name: point(config) for name, config in self.conditions.items()}

    def choices(self, coordinate: str) -> list[Any]:
        """Values of a coordinate at which something was measured, in order."""
        values = dict.fromkeys(at[coordinate] for at in self.points.values())
        numbers = all(isinstance(value, float) for value in values)
        return sorted(values) if numbers else list(values)

    def snap(self, wanted: Mapping[str, Any], moved: str) -> str:
        """The measured condition nearest to coordinates, among those that have the one that was ``moved``.

        Near is: the same data set and model, then the same kind of loss, then the nearest λ, τ and α.
        """
        require(wanted[moved] in self.choices(moved), moved, wanted[moved], "nothing was measured there")
        among = [name for name, at in self.points.items() if at[moved] == wanted[moved]]
        return min(among, key=lambda name: _distance(self.points[name], wanted))

    def _parquet(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        return pd.read_parquet(self.folder / f"{name}.parquet")

    @cached_property
    def findings(self) -> "pd.DataFrame":
        """question, condition, against, measure, …: differences from a baseline, paired by seed."""
        return self._parquet("findings")

    @cached_property
    def maps(self) -> "pd.DataFrame":
        """Places of held-out images in the features of some conditions."""
        return self._parquet("maps")

    @cached_property
    def stopping(self) -> "pd.DataFrame":
        """Runs on 200 digits, measured every 100 steps, for comparisons with early stopping."""
        return self._parquet("stopping")

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """condition, seed, step, name, value: losses and meters as they were logged in training."""
        return self._parquet("curves")

    @property
    def claims(self) -> str:
        """The table of claims, as Markdown."""
        return (self.folder / "CLAIMS.md").read_text(encoding="utf-8")

    @property
    def pays(self) -> str:
        """The page on where the loss pays, as Markdown."""
        return (self.folder / "PAYS.md").read_text(encoding="utf-8")

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Condition → its samples, in 0 … 255."""
        with np.load(self.folder / "samples.npz") as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def _by_condition(self) -> dict[str, "pd.DataFrame"]:
        return dict(tuple(self.table.groupby("condition")))

    @cached_property
    def _baselines(self) -> dict[str, str]:
        return baselines(self.conditions)

    def _config(self, condition: str) -> Config:
        require(condition in self.conditions, "condition", condition, f"choose one of {', '.join(self.conditions)}")
        return self.conditions[condition]


def baselines(conditions: Mapping[str, Config]) -> dict[str, str]:
    """Condition → the one with the same settings but no regularizer."""
    plain = {_without(config): name for name, config in conditions.items() if not config.regularizers}
    return {name: plain[_without(config)] for name, config in conditions.items()}


def _without(config: Config) -> str:
    """Settings that a config has in common with its baseline: all but regularizers, length and checkpoints."""
    settings = json.loads(config.to_json())
    for name in ("dispersive", "contrastive", "repa", "steps", "save_every", "keep_last", "keep_every", "log_every"):
        del settings[name]
    return json.dumps(settings, sort_keys=True)


def _distance(at: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    names = sum(weight for name, weight in UNLIKE.items() if at[name] != wanted[name])
    ratios = sum(abs(math.log2(max(at[name], ZERO) / max(wanted[name], ZERO))) for name in ("lam", "tau"))
    return names + ratios + 4 * abs(at["alpha"] - wanted["alpha"])


def write_atlas(folder: Path, files: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write the files of an atlas, and at last its record with their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = json.dumps({"format": FORMAT, **record, "sha256": digests}, indent=1, ensure_ascii=False)
    (folder / "atlas.json").write_text(text + "\n", encoding="utf-8")
    Atlas.load.cache_clear()  # the files that were read before are gone


def differences_at_best(stopping: "pd.DataFrame", measures: Sequence[str]) -> "pd.DataFrame":
    """Paired differences of an atlas's ``stopping``, each run at the step of its lowest loss on held-out images.

    ``x-dispersive`` is compared with ``x-baseline``, every other condition with ``baseline``.
    """
    import pandas as pd

    losses = stopping[stopping["measure"] == "loss_held_out"].set_index(["run", "step"])["value"]
    best = stopping.set_index(["run", "step"]).index.isin(losses.groupby("run").idxmin())
    own = stopping.loc[best & stopping["measure"].isin(measures), ["condition", "seed", "measure", "value"]]
    family = own["condition"].str.extract(r"^(.+-)(?:dispersive|baseline)$", expand=False).fillna("")
    parts = [
        paired_differences(rows, f"{of}baseline", column="condition")
        for of, rows in own.groupby(family)
        if rows["condition"].nunique() > 1
    ]
    return pd.concat(parts, ignore_index=True)
