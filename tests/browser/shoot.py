"""Photograph a notebook as a reader meets it: python tests/browser/shoot.py notebooks/00_start_here.ipynb pictures

The notebook is copied, opened in JupyterLab at 1280×900 and run one cell after another (with --run-all: by the menu
entry), then photographed a window at a time, top to bottom. Exit status 1 when a cell failed.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab import LabPage
from server import running_chromium, running_server, why_not


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="folder for the PNG files: NOTEBOOK-01-cell00.png, …")
    parser.add_argument("--run-all", action="store_true", help="run by the menu entry Run All Cells")
    parser.add_argument("--tier", default="cpu", choices=["smoke", "cpu", "gpu"], help="LAB_TIER (default: cpu)")
    parser.add_argument("--size", default="1280x900", help="of the window (default: %(default)s)")
    parser.add_argument("--wide", action="store_true", help="without the file browser at the left")
    parser.add_argument("--dark", action="store_true", help="in JupyterLab's dark theme")
    parser.add_argument("--patience", type=float, default=900, metavar="S", help="seconds to wait for it to run")
    args = parser.parse_args()
    if (reason := why_not()) is not None:
        parser.exit(2, reason.replace("browser tests skipped: ", "") + "\n")
    if not args.notebook.is_file():
        parser.error(f"notebook = {args.notebook} does not exist")
    width, height = map(int, args.size.split("x"))

    with (
        tempfile.TemporaryDirectory() as work,
        running_server(Path(work), args.notebook.resolve().parent, args.tier) as server,
        running_chromium() as browser,
        contextlib.closing(LabPage(browser, server, width, height)) as lab,
    ):
        return shoot(lab, args)


def walk_through(lab: LabPage) -> Iterator[int]:
    """Scroll through the notebook a window at a time; yields the index of the cell at the top of each view."""
    cell, offset = 0, 0.0
    while True:
        view = lab.page.evaluate("([i, offset]) => lab.reveal(i, offset)", [cell, offset])
        yield cell
        if view["next"] >= view["count"]:
            return
        offset = offset + 0.9 * view["height"] if view["next"] == cell else 0.0  # a cell taller than the window
        cell = view["next"]


def shoot(lab: LabPage, args: argparse.Namespace) -> int:
    """Run the notebook in `lab` and write its pictures; returns the number of failed cells, 1 at most."""
    lab.open(args.notebook.name)
    if args.wide:
        lab.command("application:toggle-left-area")
    if args.dark:
        lab.command("apputils:change-theme", theme="JupyterLab Dark")
    began = time.monotonic()
    if args.run_all:
        lab.run_all(args.patience)
    else:
        for index in range(len(lab.cells())):
            lab.run_cell(index, args.patience)
    print(f"{args.notebook.name} ran in {time.monotonic() - began:.1f} s")
    lab.wait_still()
    for number, cell in enumerate(walk_through(lab), start=1):
        lab.wait_still(at_most=5)
        print(lab.screenshot(args.out / f"{args.notebook.stem}-{number:02d}-cell{cell:02d}.png"))
    for message in lab.console_errors:
        print("browser console:", message)
    errors = lab.cell_errors()
    print(*errors, sep="\n", end="\n" if errors else "")
    return int(bool(errors))


if __name__ == "__main__":
    raise SystemExit(main())
