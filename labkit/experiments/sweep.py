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
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, is_dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from tqdm.auto import tqdm

from labkit.checks import LabError, check_whole, require
from labkit.config import Config, flat
from labkit.datasets import DataIdentity, identify
from labkit.disk import replace_file, user_path
from labkit.evaluation import REAL
from labkit.experiments.apart import Job, orphaned, run_jobs
from labkit.experiments.batched import groups, train_batched
from labkit.experiments.compiling import worth_compiling
from labkit.runtime import commit, compiler_fault, cores, gpus, one_thread
from labkit.signals import saving_on_signals
from labkit.training import Run, Trainer
from labkit.training.folder import RunError, RunFolder
from labkit.training.status import one_line

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-sweep-1"
MARK = "configs.json"
LONGEST = 200  # bytes of a run's name, which becomes a folder's
LOOK = 2.0  # seconds between two looks at the runs that other processes do
MEASURED = ("step", "block", "sampler", "measure", "value", "commit", "machine", "seconds")
"""Last columns of the table."""
Row = dict[str, Any]
"""step, measure and value; block and sampler where a measure has them."""


@runtime_checkable  # the tests check the types of arguments
class Judge(Protocol):
    """Measures runs. A frozen dataclass at the top of a module: its rows are cached under its repr."""

    def __call__(self, run: Run, steps: Sequence[int], /) -> list[Row]:
        """Rows of a run at some of its steps."""
        ...

    def real(self, dataset: str) -> list[Row]:
        """Rows of a data set's real images, which stand beside those of the runs."""
        ...


class Sweep(NamedTuple):
    """The measurements of many runs."""

    table: "pd.DataFrame"
    configs: dict[str, Config]
    failures: dict[str, str]
    """Run → the last line of its error, and the remedy. Such a run has no rows."""

    def summary(self) -> "pd.DataFrame":
        """Condition × measure as text, mean ± deviation over seeds, at each run's last step; without geometry."""
        table = self.table[self.table["block"].isna()]
        last = table.groupby("run")["step"].transform("max")
        table = table[(table["step"] == last) | (table["run"] == REAL)].fillna({"sampler": ""})
        place = ["condition", "sampler"] if table["sampler"].nunique() > 2 else ["condition"]  # one, and "" of none
        groups = table.groupby([*place, "measure"], sort=False)["value"]
        words = groups.agg(lambda v: f"{v.mean():.3g}" + (f" ± {v.std():.2g}" if len(v) > 1 else ""))
        wide = words.unstack("measure").reindex(columns=list(dict.fromkeys(table["measure"]))).fillna("–")
        wide.insert(0, "seeds", table.groupby(place)["seed"].nunique())
        return wide.rename_axis(columns=None)

    def describe(self) -> str:
        """The summary as text, and which runs failed and why."""
        lines = [self.summary().T.to_string()] if len(self.table) else []
        return "\n".join([*lines, *(f"Failed: {run}: {why}" for run, why in self.failures.items())])

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """Read what the last sweep into this folder wrote."""
        import pandas as pd

        out = user_path(out, "out")
        remedy = "it holds no table of a sweep, which writes it when it ends"
        require((out / "table.parquet").is_file(), "out", str(out), remedy)
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
    distinct = len({*configs.values()}) == len(configs)
    require(distinct, "axes", dict(axes), "give each value once, 1 and 1.0 are the same")
    return configs


def combinations(axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Name → {field: value} for every combination; names are short, and fit for folders."""
    require(len(axes) > 0, "axes", dict(axes), "name at least one field and its values")
    for name, values in axes.items():
        distinct = 0 < len(values) == len({str(v) for v in values})
        require(distinct, name, list(values), "give each value once, and at least one")
    names = _short(list(axes))
    settings = {}
    for values in product(*axes.values()):
        name = folder_name(",".join(f"{field}={_text(value)}" for field, value in zip(names, values, strict=True)))
        if len(name.encode()) > LONGEST:
            begun = name.encode()[: LONGEST - 9].decode(errors="ignore")
            name = f"{begun}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        require(name not in settings, "axes", dict(axes), f"two of its runs would be named {name}")
        settings[name] = dict(zip(axes, values, strict=True))
    return settings


def folder_name(text: str) -> str:
    """Replace the characters that a folder's name should not have."""
    return re.sub(r"[^\w.,=+-]+", "-", text)


def _short(fields: Sequence[str]) -> list[str]:
    """Names of settings without their groups, ``lam`` for ``dispersive.lam``, if they remain distinct."""
    last = [name.rpartition(".")[2] for name in fields]
    return last if len({*last}) == len(last) else list(fields)


def _changed(base: Config, values: Mapping[str, Any]) -> Config:
    fields, tree = flat(asdict(base)), json.loads(base.to_json())
    for name, value in values.items():
        same = [field for field in fields if field.rpartition(".")[2] == name]  # without its group
        close = same or get_close_matches(name, fields, 4, 0.5) or list(fields)
        require(name in fields, "axes", name, f"it is no setting; did you mean {' or '.join(close)}")
        group, _, field = name.rpartition(".")
        (tree[group] if group else tree)[field] = value
    return Config.from_json(json.dumps(tree, default=lambda number: number.item()))


def sweep(
    configs: Mapping[str, Config],
    out: str | Path,
    judge: Judge,
    workers: int | None = None,
    progress: bool = True,
    batched: bool = False,
) -> Sweep:
    """Train and measure every config, and write one table. Runs that another process trains are waited for.

    Args:
        configs: run → config; names become folders in ``out``.
        judge: measures a run; its rows are cached in the run's folder.
        workers: runs at a time, by default one for each GPU, or without any for each core. GPUs take turns.
        batched: first train those that differ in seed and λ alone as one program, in this process: for a GPU.

    Raises:
        ConfigError: no configs, names that cannot be folders, or a judge that cannot be sent to another process.
        RunError: the folder holds something else.
        KeyboardInterrupt: after Ctrl-C, once the runs under way have been saved.
    """
    out, workers = user_path(out, "out"), len(gpus()) or cores() if workers is None else workers
    require(len(configs) > 0, "configs", dict(configs), "name at least one")
    for name in configs:
        fits = name == Path(name).name not in ("", "..") and len(name.encode()) <= LONGEST
        require(fits, "configs", name, f"its name must be that of a folder, of at most {LONGEST} bytes")
    check_whole("workers", workers)
    module = sys.modules[type(judge).__module__]
    importable = is_dataclass(judge) and "<locals>" not in type(judge).__qualname__ and hasattr(module, "__file__")
    remedy = "give a frozen dataclass with __call__, defined at the top of a .py file, not in a notebook"
    require(importable, "judge", judge, remedy)
    _refuse_foreign(out)
    data = {name: identify(name) for name in dict.fromkeys(config.dataset for config in configs.values())}
    foreign = {name: why for name, config in configs.items() if (why := _foreign(out / name, data[config.dataset]))}
    real = _real_rows(data, out, judge)  # what the judge refuses, it refuses before hours of training
    _write_configs(out, configs)
    own = {name: config for name, config in configs.items() if name not in foreign}
    todo = {name: config for name, config in own.items() if _cached(out / name, config, judge) is None}
    if batched:
        _train_batched({out / name: config for name, config in todo.items()}, progress)
    compiled = _compiled({name: config for name, config in todo.items() if not trained(out / name, config)}, out)
    jobs = {
        name: Job(_train_and_judge, (config, name in compiled, RunFolder(out / name), judge), out / name)
        for name, config in todo.items()
    }
    failures = foreign | _share(jobs, configs, judge, workers, progress)
    result = Sweep(_table(configs, foreign, out, judge, real), dict(configs), failures)
    _write(result, out)
    return result


def _share(
    jobs: Mapping[str, Job], configs: Mapping[str, Config], judge: Judge, workers: int, progress: bool
) -> dict[str, str]:
    """Train the runs that no other process trains, until all are done; run → why it failed, here or elsewhere."""
    folders = {name: RunFolder(job.folder) for name, job in jobs.items()}
    before = {name: folder.status for name, folder in folders.items()}
    failures: dict[str, str] = {}

    def left(name: str) -> bool:
        if name in failures or _cached(folders[name].path, configs[name], judge) is not None:
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
            failures |= run_jobs(mine, workers, progress, due, gpus())
        else:
            if progress and not names <= waiting:
                tqdm.write(f"Waiting for {', '.join(sorted(names))}, which other processes train.")
            waiting |= names
            time.sleep(LOOK)
    return {name: why for name, why in failures.items() if _cached(folders[name].path, configs[name], judge) is None}


def _train_batched(runs: Mapping[Path, Config], progress: bool) -> None:
    """Train what can be trained together; the rest, and what fails, is left to its own process, which says why."""
    left = {folder: config for folder, config in runs.items() if not trained(folder, config)}
    for group in groups(left):
        if len(group) > 1:
            steps = next(iter(group.values())).steps
            title, stop = f"{len(group)} runs as one", Event()
            try:
                with saving_on_signals(stop.set), closing(train_batched(group)) as done:
                    for _ in tqdm(done, total=steps, unit="step", desc=title, disable=not progress):
                        if stop.is_set():  # between two steps: amid one, weights and moments would not fit together
                            break
            except (LabError, RuntimeError) as error:  # settings that cannot be shared, or memory that is full
                tqdm.write(f"{title}: not possible, so each trains alone: {error}")
            if stop.is_set():
                raise KeyboardInterrupt


def _compiled(configs: Mapping[str, Config], out: Path) -> set[str]:
    """The runs to compile: those whose steps repay it. A run goes on as it began: its last bits depend on that."""
    begun = {name for name in configs if RunFolder(out / name).checkpoints and (out / name / "config.json").exists()}
    compiled = {name for name in begun if RunFolder(out / name).config.engine.compile and not compiler_fault()}
    return compiled | worth_compiling({name: config for name, config in configs.items() if name not in begun})


def trained(folder: Path, config: Config) -> bool:
    """Whether a run of this folder has got as far as the config says."""
    return config.steps in RunFolder(folder).checkpoints


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds anything but runs and the files of a sweep."""
    ours = out.is_dir() and all(f.is_dir() or f.name.startswith((".", "real-")) for f in out.iterdir())
    if out.exists() and not ours and not (out / MARK).exists():
        raise RunError(f"{out} exists and is not the folder of a sweep; choose an empty or a new folder.")


def _foreign(folder: Path, data: DataIdentity) -> str:
    """Why the run in a folder, and the rows that were measured there, are not of these data; empty if they are."""
    try:
        if (folder / "config.json").exists():
            RunFolder.open(folder).refuse_other(data)
    except LabError as error:
        return one_line(error)
    return ""


def _write_configs(out: Path, configs: Mapping[str, Config]) -> None:
    """Write what the folder will hold."""
    for stale in ("table.parquet", "failures.json"):  # of other configs, perhaps: a sweep that is left has none
        (out / stale).unlink(missing_ok=True)
    _write_json(out / MARK, {run: json.loads(config.to_json()) for run, config in configs.items()}, indent=1)


def _train_and_judge(config: Config, compiled: bool, folder: RunFolder, judge: Judge) -> None:
    with folder.writing():
        if _cached(folder.path, config, judge) is not None:  # by another process, just now
            return
        # Killed between its last checkpoint and the sheet of samples, a run still has that to draw.
        ended = max(folder.checkpoints, default=0) == config.steps
        lost = ended and folder.sheets.exists() and not folder.sheet(config.steps).exists()
        if not trained(folder.path, config) or lost:
            engine = replace(config.engine, compile=compiled or config.engine.compile)
            trainer = Trainer(replace(config, engine=engine), folder)
            with saving_on_signals(trainer.stop), closing(iter(trainer)) as reports:
                for _ in reports:
                    if orphaned():
                        trainer.stop()
        run = Run.open(folder.path)
        if other := run.breaks(config, identify(config.dataset)):
            raise RunError(f"{run.path} holds a run of another config ({other}); name another folder.")
        rows = judge(run, _due(run, config))
        _write_json(_cache(run.path, "judged", judge, config.to_json()), {"judge": repr(judge), "rows": rows})


def _due(run: Run, config: Config) -> list[int]:
    """The checkpoints of a run of this config, without those that an interruption or more steps left."""
    return [n for n in run.checkpoints if n <= config.steps and (n % config.save_every == 0 or n == config.steps)]


def _cached(folder: Path, config: Config, judge: Judge) -> list[Row] | None:
    """The judge's rows of this run; None before it has measured it."""
    return _read(_cache(folder, "judged", judge, config.to_json())).get("rows")


def _cache(folder: Path, kind: str, judge: Judge, content: str) -> Path:
    """File of what a judge measured of this content."""
    return folder / f"{kind}-{hashlib.sha256(f'{FORMAT} {judge!r} {content}'.encode()).hexdigest()[:12]}.json"


def _table(
    configs: Mapping[str, Config], foreign: Mapping[str, str], out: Path, judge: Judge, real: list[Row]
) -> "pd.DataFrame":
    import pandas as pd

    settings = {name: flat(asdict(config)) for name, config in configs.items()}
    fields = dict.fromkeys(field for values in settings.values() for field in values)
    differ = [f for f in fields if f != "seed" and len({str(values.get(f)) for values in settings.values()}) > 1]
    rows = []
    for name, config in configs.items():
        if name not in foreign and (measured := _cached(out / name, config, judge)):
            values = {field: _text(settings[name].get(field)) for field in differ}
            condition = ", ".join(f"{f}={v}" for f, v in zip(_short(differ), values.values(), strict=True))
            run = {"run": name, "condition": condition, "seed": config.seed, "dataset": config.dataset, **values}
            log = Run.open(out / name).metrics()
            run |= {**origin(out / name), "seconds": log.loc[log["step"] <= config.steps, "seconds"].max()}
            rows += [{**run, **row} for row in measured]
    rows += real
    table = pd.DataFrame(rows, columns=[*dict.fromkeys(["run", "condition", "seed", "dataset", *differ]), *MEASURED])
    return table.astype(dict.fromkeys(("seed", "step", "block"), "Int64")).infer_objects()


def _real_rows(data: Mapping[str, DataIdentity], out: Path, judge: Judge) -> list[Row]:
    """The judge's rows of the real images of every data set, cached in the sweep's folder."""
    rows = []
    for name, identity in data.items():
        path = _cache(out, "real", judge, identity.name if identity.path is None else identity.digest)
        if not path.exists():
            with one_thread():
                measured = [{**row, "commit": commit()} for row in judge.real(identity.name)]
            _write_json(path, {"judge": repr(judge), "dataset": identity.name, "rows": measured})
        rows += [{"run": REAL, "condition": REAL, "dataset": name, **row} for row in _read(path)["rows"]]
    return rows


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def origin(folder: Path) -> Row:
    """Commit and machine of a run, as it recorded them."""
    machine = _read(folder / "machine.json")
    return {"commit": machine.get("commit"), "machine": machine.get("processor")}


def _write(result: Sweep, out: Path) -> None:
    replace_file(out / "table.parquet", parquet(result.table))
    if result.failures:
        _write_json(out / "failures.json", result.failures, indent=1, ensure_ascii=False)
    else:
        (out / "failures.json").unlink(missing_ok=True)  # of a sweep that ended before others had done its rest


def parquet(table: "pd.DataFrame") -> bytes:
    """Contents of a Parquet file of a table."""
    return table.to_parquet(index=False, compression="zstd")


def _write_json(path: Path, content: Any, **style: Any) -> None:
    replace_file(path, json.dumps(content, **style).encode())


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
