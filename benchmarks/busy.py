"""Training on a busy machine: steps a second alone and beside other work, as ratios of one run.

    python benchmarks/busy.py                                    torch as it comes, and as labkit sets it
    python benchmarks/busy.py --settings GOMP_SPINCOUNT=300 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1

Each training is a process of its own: SiT-Nano/2 on digits, batches of 128, λ = 0.5. For each setting it runs alone,
beside one process that only counts, beside a second training, and in a kernel whose live panel a browser draws. The
settings take turns, and a rate is the median of the turns, so that a machine whose speed drifts is unfair to none.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from labkit.openmp import OWN
from labkit.runtime import machine

HERE = Path(__file__).resolve()
AS_IT_COMES = "GOMP_SPINCOUNT=300000"  # GNU's own number
LABKIT = "labkit's"
PANEL = """
from labkit import recipes
from labkit.widgets import LiveTraining, training_panel

state = LiveTraining(lambda s: {"dispersive": recipes.digits(lam=s.lam, steps=s.steps)}, steps=10**6)
training_panel("busy", state, ("lam",), "busy")
"""


def train(seconds: float) -> None:
    """What a process does: warms up, says so, waits for a line, trains for a while and says its rate."""
    from labkit import Trainer, recipes

    steps = iter(Trainer(recipes.digits(lam=0.5, steps=10**6, log_every=10**6)))
    for _ in range(10):
        next(steps)
    print("ready", flush=True)
    sys.stdin.readline()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(steps)
        count += 1
    print(count / (time.perf_counter() - began), flush=True)


def environment(setting: str) -> dict[str, str]:
    """This process's own, with a setting in place of all that says how threads wait."""
    kept = {name: value for name, value in os.environ.items() if name not in (*OWN, "OMP_NUM_THREADS")}
    return kept | ({} if setting == LABKIT else dict([setting.split("=", 1)]))


def rates(setting: str, count: int, seconds: float) -> list[float]:
    """Of ``count`` trainings at once."""
    words = [sys.executable, str(HERE), "--train", str(seconds)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(setting))
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(words, **pipes)) for _ in range(count)]
        for process in started:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a training did not start")
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [float(process.stdout.readline()) for process in started]


def beside_a_loop(setting: str, seconds: float) -> float:
    """Steps a second of a training beside a process that keeps one core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            return rates(setting, 1, seconds)[0]
        finally:
            process.kill()


def beside_a_browser(setting: str, seconds: float) -> float:
    """Steps a second of a training whose curves and samples a page draws as it goes."""
    sys.path.insert(0, str(HERE.parents[1] / "tests/browser"))
    from lab import LabPage
    from server import running_chromium, running_server

    with (
        patch.dict(os.environ, environment(setting), clear=True),
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), tier="cpu") as server,
        running_chromium() as browser,
        contextlib.closing(LabPage(browser, server)) as lab,
    ):
        lab.open("00_start_here.ipynb")
        cell = lab.add_cell(PANEL)
        lab.run_cell(cell)
        lab.click("Start", cell)
        steps = "print(state.progress['dispersive'].step if state.progress else 0)"
        lab.wait_for(lambda: int(lab.kernel_eval(steps)) > 10)
        began, first = time.perf_counter(), int(lab.kernel_eval(steps))
        lab.page.wait_for_timeout(1000 * seconds)
        last = int(lab.kernel_eval(steps))
        return (last - first) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="to compare")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each setting (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="leave the panel out")
    parser.add_argument("--train", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        train(args.train)
        return
    settings = [AS_IT_COMES, LABKIT, *args.settings]
    ways = {
        "alone": lambda s: rates(s, 1, args.seconds)[0],
        "beside a busy loop": lambda s: beside_a_loop(s, args.seconds),
        "two trainings, each": lambda s: statistics.mean(rates(s, 2, args.seconds)),
    }
    if not args.no_browser:
        ways["in a panel"] = lambda s: beside_a_browser(s, args.seconds)
    measured = {(way, setting): [] for way in ways for setting in settings}
    print(machine()["processor"])
    for turn in range(args.turns):
        for setting in settings:
            for way, measure in ways.items():
                if way != "in a panel" or turn == 0:
                    measured[way, setting].append(measure(setting))
    best = max(statistics.median(measured["alone", setting]) for setting in settings)
    print(f"{'':22}" + "".join(f"{way:>28}" for way in ways))
    for setting in settings:
        alone = statistics.median(measured["alone", setting])
        columns = [(statistics.median(measured[way, setting]), best if way == "alone" else alone) for way in ways]
        print(f"{setting:22}" + "".join(f"{rate:14.1f} steps/s {rate / to:5.2f}×" for rate, to in columns))
    print("×: of the fastest alone in the first column, of the same setting alone in the others")


if __name__ == "__main__":
    main()
