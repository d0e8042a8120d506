"""A grid or a list of configs → runs → one tidy table.

Every run trains in a process and a folder of its own, with one thread: what fails, or is killed, takes no other run
along. What was interrupted goes on where it stopped; what is trained and judged is not done again. ``sweep`` writes

    table.parquet   run, seed, the settings that differ, step, block, sampler, measure, value, commit, machine, seconds
    configs.json    run → config
    failures.json   run → why it failed, if any did
"""

import hashlib
import io
import json
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tqdm.auto import tqdm

from labkit.checks import require
from labkit.config import Config, flat
from labkit.disk import replace_file
from labkit.runtime import cores
from labkit.training import Run, Trainer
from labkit.training.engine import saving_on_signals
from labkit.training.folder import RunError, RunFolder
from labkit.types import LabError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-sweep-1"
STOPPED, FAILED = 3, 4  # exit statuses of a run's process
FAILURE = "failure.txt"
Row = dict[str, Any]
"""step, measure and value; block and sampler where a measure has them."""
Judge = Callable[[Run, Sequence[int]], list[Row]]
"""Says what became of a run at some steps. A frozen dataclass: its repr is what its rows are kept under."""


class Sweep(NamedTuple):
    """What many runs came to."""

    table: "pd.DataFrame"
    configs: dict[str, Config]
    failures: dict[str, str]
    """Run → the last line of its error. Such a run has no rows."""

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """What the last sweep into this folder wrote."""
        import pandas as pd

        out = Path(out)
        require((out / "table.parquet").is_file(), "out", str(out), "it holds no table of a sweep")
        configs = {run: Config.from_json(json.dumps(one)) for run, one in _read(out / "configs.json").items()}
        return cls(pd.read_parquet(out / "table.parquet"), configs, _read(out / "failures.json"))


def grid(base: Config, axes: Mapping[str, Sequence[Any]]) -> dict[str, Config]:
    """Run → config for every combination of values.

    Args:
        axes: field → values, with dots as on the command line: ``{"dispersive.lam": [0, 0.5], "seed": range(3)}``.

    Raises:
        ConfigError: no such field, a value that it refuses, or no values at all.
    """
    return {name: _changed(base, values) for name, values in combinations(axes).items()}


def combinations(axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Name → {field: value} for every combination; names are short, and fit for folders."""
    require(len(axes) > 0, "axes", dict(axes), "name at least one field and its values")
    for name, values in axes.items():
        told = "give each value once, and at least one"
        require(0 < len(values) == len({str(v) for v in values}), name, list(values), told)
    last = [name.rpartition(".")[2] for name in axes]
    short = dict(zip(axes, last if len({*last}) == len(last) else axes, strict=True))
    found = {}
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        name = ",".join(f"{short[of]}={value}" for of, value in chosen.items())
        found[re.sub(r"[^\w.,=+-]+", "-", name)] = chosen
    return found


def _changed(base: Config, values: Mapping[str, Any]) -> Config:
    known, said = flat(asdict(base)), json.loads(base.to_json())
    for name, value in values.items():
        require(name in known, "axes", name, f"it is no setting; choose one of {', '.join(known)}")
        group, _, of = name.rpartition(".")
        (said[group] if group else said)[of] = value
    return Config.from_json(json.dumps(said, default=lambda number: number.item()))


def sweep(
    configs: Mapping[str, Config], out: str | Path, judge: Judge, workers: int | None = None, progress: bool = True
) -> Sweep:  # fmt: skip
    """Train and judge every config, and write one table of all.

    Args:
        configs: run → config; names become folders in ``out``.
        judge: says what became of a run; what it said is kept in the run's folder.
        workers: runs at a time, by default one a core.

    Raises:
        ConfigError: no configs, or names that cannot be folders.
        KeyboardInterrupt: after Ctrl-C, once the runs under way have been saved.
    """
    out = Path(out)
    require(len(configs) > 0, "configs", dict(configs), "name at least one")
    for name in configs:
        require(name == Path(name).name not in ("", ".."), "configs", name, "its name must be that of a folder")
    todo = {name: config for name, config in configs.items() if _judged(out / name, config, judge) is None}
    failures = _run_all(todo, out, judge, workers or cores(), progress) if todo else {}
    made = Sweep(_table(configs, out, judge), dict(configs), failures)
    _write(made, out)
    return made


def _run_all(
    configs: Mapping[str, Config], out: Path, judge: Judge, workers: int, progress: bool
) -> dict[str, str]:  # fmt: skip
    """Run → why it failed."""
    context, alive, failures = get_context("spawn"), {}, {}
    stopping = False

    def one(name: str) -> str | None:
        if stopping:
            return None
        folder = out / name
        process = context.Process(target=_one, args=(configs[name], folder, judge), name=name)
        alive[name] = process
        process.start()
        process.join()
        del alive[name]
        return _why(process, folder)

    pool = ThreadPoolExecutor(workers)
    running = {pool.submit(one, name): name for name in configs}
    try:
        with tqdm(total=len(running), unit="run", desc="sweep", disable=not progress) as bar:
            for done in as_completed(running):
                if why := done.result():
                    failures[running[done]] = why
                    bar.set_postfix_str(f"{len(failures)} failed", refresh=False)
                bar.update()
    except BaseException:
        stopping = True
        for process in list(alive.values()):
            process.terminate()  # which saves
        raise
    finally:
        pool.shutdown()
    return failures


def _why(process: BaseProcess, folder: Path) -> str | None:
    """What a process that has ended died of, None if it was well."""
    if process.exitcode in (0, STOPPED):
        return None if process.exitcode == 0 else "it was stopped; the same sweep goes on"
    if process.exitcode == FAILED:
        return (folder / FAILURE).read_text(encoding="utf-8").strip().splitlines()[-1]
    if process.exitcode < 0:
        by = f"its process was killed by signal {-process.exitcode} (9 is often want of memory)"
        return f"{by}; the same sweep goes on"
    return f"its process ended with status {process.exitcode}; run it alone to see why"


def _one(config: Config, folder: Path, judge: Judge) -> None:
    """What the process of a run does."""
    torch.set_num_threads(1)  # the runs share the machine: a thread each is faster than all threads for all
    try:
        if config.steps not in (RunFolder(folder).checkpoints() if folder.exists() else {}):
            trainer = Trainer(config, folder)
            with saving_on_signals(trainer.stop):
                for _ in trainer:
                    pass
        run = Run.open(folder)
        other = "; ".join(run.config.breaks(config))
        if other:
            raise RunError(f"{folder} holds a run of another config ({other}); name another folder.")
        rows = judge(run, _due(run, config))
    except KeyboardInterrupt:
        os._exit(STOPPED)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        told = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
        (folder / FAILURE).write_text(f"{traceback.format_exc()}\n{' '.join(told.split())}\n", encoding="utf-8")
        os._exit(FAILED)
    (folder / FAILURE).unlink(missing_ok=True)
    replace_file(_kept(folder, config, judge), json.dumps({"judge": repr(judge), "rows": rows}).encode())


def _due(run: Run, config: Config) -> list[int]:
    """The checkpoints that a run of this config has; not those that an interruption or more steps left."""
    return [n for n in run.checkpoints if n <= config.steps and (n % config.save_every == 0 or n == config.steps)]


def _kept(folder: Path, config: Config, judge: Judge) -> Path:
    key = hashlib.sha256(f"{FORMAT} {judge!r} {config.to_json()}".encode()).hexdigest()[:12]
    return folder / f"judged-{key}.json"


def _judged(folder: Path, config: Config, judge: Judge) -> list[Row] | None:
    """What the judge said of this very run; None if it has not."""
    return _read(_kept(folder, config, judge)).get("rows")


def _table(configs: Mapping[str, Config], out: Path, judge: Judge) -> "pd.DataFrame":
    import pandas as pd

    settings = {name: flat(asdict(config)) for name, config in configs.items()}
    every = dict.fromkeys(of for known in settings.values() for of in known)
    differ = [of for of in every if of != "seed" and len({str(known.get(of)) for known in settings.values()}) > 1]
    rows = []
    for name, config in configs.items():
        judged = _judged(out / name, config, judge)
        if judged:
            known = {"run": name, "seed": config.seed, **{of: _plain(settings[name].get(of)) for of in differ}}
            rows += [{**known, **row, **_about(out / name)} for row in judged]
    first = ["run", "seed", *differ, "step", "block", "sampler", "measure", "value", "commit", "machine", "seconds"]
    table = pd.DataFrame(rows, columns=first)
    return table.astype({"block": "Int64"}).infer_objects()


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def _about(folder: Path) -> Row:
    about, seconds = _read(folder / "machine.json"), Run.open(folder).metrics()["seconds"].max()
    return {"commit": about.get("commit"), "machine": about.get("processor"), "seconds": seconds}


def _write(made: Sweep, out: Path) -> None:
    table = io.BytesIO()
    made.table.to_parquet(table, index=False)
    configs = {run: json.loads(config.to_json()) for run, config in made.configs.items()}
    replace_file(out / "table.parquet", table.getvalue())
    replace_file(out / "configs.json", json.dumps(configs, indent=1).encode())
    if made.failures:
        replace_file(out / "failures.json", json.dumps(made.failures, indent=1, ensure_ascii=False).encode())
    else:
        (out / "failures.json").unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
