"""A grid or a list of configs → runs → one tidy table.

Every run trains in a process and a folder of its own, with one thread: what fails, or is killed, takes no other run
along. On a CPU, programs that train for long enough are compiled (``compiling``). What was interrupted goes on where it
stopped; what is trained and judged is not done again. Any number of processes, on any number of machines that share the
folder, may do the same sweep: each takes what no other has taken, and waits for the rest. ``sweep`` writes

    table.parquet   run, condition, seed, dataset, the settings that differ, step, block, sampler, measure, value,
                    commit, machine, seconds; runs of one condition differ in their seeds alone
    configs.json    run → config
    failures.json   run → why it failed, if any did
"""

import hashlib
import io
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, is_dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from labkit.checks import require, whole
from labkit.config import Config, flat
from labkit.disk import replace_file
from labkit.evaluation import REAL
from labkit.experiments.apart import Job, orphaned, run_apart
from labkit.experiments.batched import groups, train_batched
from labkit.experiments.compiling import worth_compiling
from labkit.runtime import commit, cores, one_thread
from labkit.training import Run, Trainer
from labkit.training.engine import saving_on_signals
from labkit.training.folder import RunError, RunFolder
from labkit.types import LabError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-sweep-1"
MARK = "configs.json"
LOOK = 2.0  # seconds between two looks at the runs that other processes do
Row = dict[str, Any]
"""step, measure and value; block and sampler where a measure has them."""
Judge = Callable[[Run, Sequence[int]], list[Row]]
"""Says what became of a run at some steps. A frozen dataclass at the top of a module: its repr is what its rows are
kept under. If it has a method ``real``, its rows of a data set's real images stand beside the runs'."""


class Sweep(NamedTuple):
    """What many runs came to."""

    table: "pd.DataFrame"
    configs: dict[str, Config]
    failures: dict[str, str]
    """Run → the last line of its error, and what helps. Such a run has no rows."""

    def summary(self) -> "pd.DataFrame":
        """Condition × measure in words, mean ± deviation over seeds, at each run's last step; geometry is left out."""
        table = self.table[self.table["block"].isna()]
        last = table.groupby("run")["step"].transform("max")
        table = table[(table["step"] == last) | (table["run"] == REAL)].fillna({"sampler": ""})
        place = ["condition", "sampler"] if table["sampler"].nunique() > 2 else ["condition"]  # one, and "" of none
        groups = table.groupby([*place, "measure"], sort=False)["value"]
        words = groups.agg(lambda v: f"{v.mean():.3g}" + (f" ± {v.std():.2g}" if len(v) > 1 else ""))
        wide = words.unstack("measure").reindex(columns=list(dict.fromkeys(table["measure"]))).fillna("–")
        wide.insert(0, "seeds", table.groupby(place)["seed"].nunique())
        return wide.rename_axis(columns=None)

    def told(self) -> str:
        """The summary, and what failed and why."""
        lines = [self.summary().T.to_string()] if len(self.table) else []
        return "\n".join([*lines, *(f"Failed: {run}: {why}" for run, why in self.failures.items())])

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """What the last sweep into this folder wrote."""
        import pandas as pd

        out = Path(out)
        require((out / "table.parquet").is_file(), "out", str(out), "it holds no table of a sweep")
        configs = {run: Config.from_json(json.dumps(one)) for run, one in _read(out / MARK).items()}
        return cls(pd.read_parquet(out / "table.parquet"), configs, _read(out / "failures.json"))


def grid(base: Config, axes: Mapping[str, Sequence[Any]]) -> dict[str, Config]:
    """Run → config for every combination of values.

    Args:
        axes: field → values, with dots as on the command line: ``{"dispersive.lam": [0, 0.5], "seed": range(3)}``.

    Raises:
        ConfigError: no such field, a value that it refuses, or no values at all.
    """
    configs = {name: _changed(base, values) for name, values in combinations(axes).items()}
    once = len({*configs.values()}) == len(configs)
    require(once, "axes", dict(axes), "give each value once, 1 and 1.0 are the same")
    return configs


def combinations(axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Name → {field: value} for every combination; names are short, and fit for folders."""
    require(len(axes) > 0, "axes", dict(axes), "name at least one field and its values")
    for name, values in axes.items():
        told = "give each value once, and at least one"
        require(0 < len(values) == len({str(v) for v in values}), name, list(values), told)
    last = [name.rpartition(".")[2] for name in axes]
    short = last if len({*last}) == len(last) else axes
    found = {}
    for values in product(*axes.values()):
        name = named(",".join(f"{of}={_plain(value)}" for of, value in zip(short, values, strict=True)))
        require(name not in found, "axes", dict(axes), f"two of its runs would be named {name}")
        found[name] = dict(zip(axes, values, strict=True))
    return found


def named(words: str) -> str:
    """A run's name: these words without what a folder's name should not have."""
    return re.sub(r"[^\w.,=+-]+", "-", words)


def _changed(base: Config, values: Mapping[str, Any]) -> Config:
    known, said = flat(asdict(base)), json.loads(base.to_json())
    for name, value in values.items():
        close = get_close_matches(name, known, 4, 0.5) or list(known)
        require(name in known, "axes", name, f"it is no setting; did you mean {' or '.join(close)}")
        group, _, of = name.rpartition(".")
        (said[group] if group else said)[of] = value
    return Config.from_json(json.dumps(said, default=lambda number: number.item()))


def sweep(
    configs: Mapping[str, Config],
    out: str | Path,
    judge: Judge,
    workers: int | None = None,
    progress: bool = True,
    batched: bool = False,
) -> Sweep:
    """Train and judge every config, and write one table of all. Runs that another process does are waited for.

    Args:
        configs: run → config; names become folders in ``out``.
        judge: says what became of a run; what it said is kept in the run's folder.
        workers: runs at a time, by default one a core.
        batched: first train, here and as one program, those that differ in seed and λ alone: for a GPU.

    Raises:
        ConfigError: no configs, names that cannot be folders, or a judge that a process of its own cannot have.
        RunError: the folder holds something else.
        KeyboardInterrupt: after Ctrl-C, once the runs under way have been saved.
    """
    out, workers = Path(out), cores() if workers is None else workers
    require(len(configs) > 0, "configs", dict(configs), "name at least one")
    for name in configs:
        require(name == Path(name).name not in ("", ".."), "configs", name, "its name must be that of a folder")
    require(whole(workers, 1), "workers", workers, "take a whole number of at least 1")
    found = sys.modules[type(judge).__module__]
    lasting = is_dataclass(judge) and "<locals>" not in type(judge).__qualname__ and hasattr(found, "__file__")
    told = "give a frozen dataclass with __call__, defined at the top of a .py file, not in a notebook"
    require(lasting, "judge", judge, told)
    _owned(out)
    real = _reals(configs, out, judge)  # what the judge refuses, it refuses before hours of training
    _open(out, configs)
    todo = {name: config for name, config in configs.items() if _judged(out / name, config, judge) is None}
    if batched:
        _train_batched({out / name: config for name, config in todo.items()}, progress)
    compiled = worth_compiling({name: config for name, config in todo.items() if not trained(out / name, config)})
    jobs = {
        name: Job(_train_and_judge, (config, name in compiled, RunFolder(out / name), judge), out / name)
        for name, config in todo.items()
    }
    failures = _share(jobs, configs, judge, workers, progress)
    made = Sweep(_table(configs, out, judge, real), dict(configs), failures)
    _write(made, out)
    return made


def _share(
    jobs: Mapping[str, Job], configs: Mapping[str, Config], judge: Judge, workers: int, progress: bool
) -> dict[str, str]:
    """Do what no other process does, until all is done somewhere; run → why it failed, here or elsewhere."""
    folders = {name: RunFolder(job.folder) for name, job in jobs.items()}
    before = {name: folder.status for name, folder in folders.items()}
    failures: dict[str, str] = {}

    def left(name: str) -> bool:
        if name in failures or _judged(folders[name].path, configs[name], judge) is not None:
            return False
        status = folders[name].status
        if status is not None and status.state == "failed" and status != before[name]:
            failures[name] = status.error
        return name not in failures

    def due(name: str) -> bool:
        return left(name) and not folders[name].busy

    waiting: set[str] = set()
    while names := set(filter(left, jobs)):
        mine = {name: jobs[name] for name in jobs if name in names and not folders[name].busy}
        if mine:
            failures |= run_apart(mine, workers, progress, due)
        else:
            if progress and not names <= waiting:
                tqdm.write(f"Waiting for {', '.join(sorted(names))}, which other processes train.")
            waiting |= names
            time.sleep(LOOK)
    return {name: why for name, why in failures.items() if _judged(folders[name].path, configs[name], judge) is None}


def _train_batched(runs: Mapping[Path, Config], progress: bool) -> None:
    """Train what can be trained together; the rest, and what fails, is left to its own process, which says why."""
    left = {folder: config for folder, config in runs.items() if not trained(folder, config)}
    for group in groups(left):
        if len(group) > 1:
            steps = next(iter(group.values())).steps
            told, stop = f"{len(group)} runs as one", Event()
            try:
                with saving_on_signals(stop.set), closing(train_batched(group)) as done:
                    for _ in tqdm(done, total=steps, unit="step", desc=told, disable=not progress):
                        if stop.is_set():  # between two steps: amid one, weights and moments would not fit together
                            break
            except (LabError, RuntimeError) as error:  # settings that cannot be shared, or memory that is full
                tqdm.write(f"{told}: not possible, so each trains alone: {error}")
            if stop.is_set():
                raise KeyboardInterrupt


def trained(folder: Path, config: Config) -> bool:
    """Whether a run of this folder has got as far as the config says."""
    return config.steps in RunFolder(folder).checkpoints


def _owned(out: Path) -> None:
    """Refuse a folder that holds anything but runs, or what a sweep wrote."""
    ours = out.is_dir() and all(f.is_dir() or f.name.startswith((".", "real-")) for f in out.iterdir())
    if out.exists() and not ours and not (out / MARK).exists():
        raise RunError(f"{out} exists and is not the folder of a sweep; choose an empty or a new folder.")


def _open(out: Path, configs: Mapping[str, Config]) -> None:
    """Say what will be in the folder."""
    for stale in ("table.parquet", "failures.json"):  # of other configs, perhaps: a sweep that is left has none
        (out / stale).unlink(missing_ok=True)
    said = {run: json.loads(config.to_json()) for run, config in configs.items()}
    _replace(out / MARK, json.dumps(said, indent=1).encode())


def _train_and_judge(config: Config, compiled: bool, folder: RunFolder, judge: Judge) -> None:
    with folder.writing():
        if _judged(folder.path, config, judge) is not None:  # by another process, just now
            return
        if not trained(folder.path, config):
            engine = replace(config.engine, compile=compiled or config.engine.compile)
            trainer = Trainer(replace(config, engine=engine), folder)
            with saving_on_signals(trainer.stop), closing(iter(trainer)) as reports:
                for _ in reports:
                    if orphaned():
                        trainer.stop()
        run = Run.open(folder.path)
        if other := "; ".join(run.config.breaks(config)):
            raise RunError(f"{run.path} holds a run of another config ({other}); name another folder.")
        rows = judge(run, _due(run, config))
        _replace(_kept(run.path, config, judge), json.dumps({"judge": repr(judge), "rows": rows}).encode())


def _due(run: Run, config: Config) -> list[int]:
    """The checkpoints that a run of this config has; not those that an interruption or more steps left."""
    return [n for n in run.checkpoints if n <= config.steps and (n % config.save_every == 0 or n == config.steps)]


def _kept(folder: Path, config: Config, judge: Judge) -> Path:
    key = hashlib.sha256(f"{FORMAT} {judge!r} {config.to_json()}".encode()).hexdigest()[:12]
    return folder / f"judged-{key}.json"


def _judged(folder: Path, config: Config, judge: Judge) -> list[Row] | None:
    """What the judge said of this very run; None if it has not."""
    return _read(_kept(folder, config, judge)).get("rows")


def _table(configs: Mapping[str, Config], out: Path, judge: Judge, real: list[Row]) -> "pd.DataFrame":
    import pandas as pd

    settings = {name: flat(asdict(config)) for name, config in configs.items()}
    every = dict.fromkeys(of for known in settings.values() for of in known)
    differ = [of for of in every if of != "seed" and len({str(known.get(of)) for known in settings.values()}) > 1]
    last = [of.rpartition(".")[2] for of in differ]
    rows = []
    for name, config in configs.items():
        judged = _judged(out / name, config, judge)
        if judged:
            known = {of: _plain(settings[name].get(of)) for of in differ}
            words = zip(last if len({*last}) == len(last) else differ, known.values(), strict=True)
            condition = ", ".join(f"{of}={value}" for of, value in words)
            about = {"run": name, "condition": condition, "seed": config.seed, "dataset": config.dataset, **known}
            about |= _about(out / name, config)
            rows += [{**about, **row} for row in judged]
    rows += real
    setting = dict.fromkeys(["run", "condition", "seed", "dataset", *differ])
    table = pd.DataFrame(
        rows, columns=[*setting, "step", "block", "sampler", "measure", "value", "commit", "machine", "seconds"]
    )
    return table.astype(dict.fromkeys(("seed", "step", "block"), "Int64")).infer_objects()


def _reals(configs: Mapping[str, Config], out: Path, judge: Judge) -> list[Row]:
    """What the judge says of the real images of every data set."""
    sets = dict.fromkeys(config.dataset for config in configs.values()) if hasattr(judge, "real") else ()
    return [{"run": REAL, "condition": REAL, "dataset": of, **row} for of in sets for row in _real(judge, of, out)]


def _real(judge: Judge, dataset: str, out: Path) -> list[Row]:
    """Of one, once for each folder."""
    key = hashlib.sha256(f"{FORMAT} {judge!r} {dataset}".encode()).hexdigest()[:12]
    path = out / f"real-{key}.json"
    if not path.exists():
        with one_thread():
            rows = [{**row, "commit": commit()} for row in judge.real(dataset)]
        _replace(path, json.dumps({"judge": repr(judge), "dataset": dataset, "rows": rows}).encode())
    return _read(path)["rows"]


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def _about(folder: Path, config: Config) -> Row:
    about, logged = _read(folder / "machine.json"), Run.open(folder).metrics()
    seconds = logged.loc[logged["step"] <= config.steps, "seconds"].max()
    return {"commit": about.get("commit"), "machine": about.get("processor"), "seconds": seconds}


def _write(made: Sweep, out: Path) -> None:
    table = io.BytesIO()
    made.table.to_parquet(table, index=False)
    _replace(out / "table.parquet", table.getvalue())
    if made.failures:
        _replace(out / "failures.json", json.dumps(made.failures, indent=1, ensure_ascii=False).encode())
    else:
        (out / "failures.json").unlink(missing_ok=True)  # of a sweep that ended before others had done its rest


def _replace(path: Path, data: bytes) -> None:
    """Write a file that other processes of the same sweep may write at the same time."""
    replace_file(path, data, mark=f".{socket.gethostname()}-{os.getpid()}")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
