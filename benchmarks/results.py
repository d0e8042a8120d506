"""The figures that ``gpu.py`` measured, by card, and README's table of them: python benchmarks/results.py writes it."""

import json
import re
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- begin: benchmarks/results.py -->\n", "<!-- end -->\n"
NOTHING = "No GPU has been measured yet: `make gpu` does it, on any machine with one, in nine minutes.\n"


def card_folder() -> str:
    """The name of this machine's card as the name of a folder."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Part → what it left in a folder."""
    read = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return {name: record for name, record in read.items() if "figures" in record}


def figures_of_all(folder: Path) -> list[str]:
    """Every figure of a folder, a line each."""
    parts, lines = records(folder), []
    for name, figure in parts.get("ceilings", {}).get("figures", {}).items():
        lines.append(f"{name:36} {figure:12,.1f}")
    if tests := parts.get("correctness", {}).get("figures"):
        lines.append(f"tests: {tests['passed']} pass, {len(tests['failed'])} fail")
        lines += [f"  {name}"[:110] for name in tests["failed"][:15]]
    lines += map(describe_step, parts.get("steps", {}).get("figures", []))
    for row in parts.get("models", {}).get("figures", []):
        lines.append(
            f"{row['models']:4} models {row['way']:26} {row['samples/s']:12,.0f} samples/s, {row['ratio']:.2f}×"
        )
    for name, record in parts.items():
        if name.startswith("pair"):
            lines += _of_pair(record["figures"])
    return lines


def describe_step(row: dict[str, Any]) -> str:
    """Cost of a training step of one model and loop, or why it was not measured."""
    name = f"{row['model']:10} {row['row']:26}"
    if "skipped" in row:
        return f"{name} skipped: {row['skipped']}"[:110]
    expected = f", expected {row['expected images/s']:,.0f}" if row.get("expected images/s") else ""
    parts = f"; ms: {', '.join(f'{part} {ms:.1f}' for part, ms in row['ms'].items())}" if row["ms"] else ""
    return (
        f"{name} {row['images/s']:9,.1f} images/s {row['share of the matmul']:6.1%} {row['memory GiB'] or 0:6.1f} GiB, "
        f"first step {row['seconds to the first step']:.0f} s{expected}{parts}"
    )


def _of_pair(figures: dict[str, Any]) -> list[str]:
    rows = [row for row in figures["rows"] if row["measure"] == "frechet_pixels"]
    table = {(row["condition"], row["step"]): row["value"] for row in rows}
    real = next((row["value"] for row in figures.get("real", []) if row["measure"] == "frechet_pixels"), float("nan"))
    head = f"pair of seed {figures['seed']}: {figures.get('steps', 0):,} steps; Fréchet distance (real: {real:.3g})"
    return [head, *(f"  {name:12} step {at:8,} {value:10.4g}" for (name, at), value in sorted(table.items()))]


def table() -> str:
    """What README says of training steps: a Markdown table, or that there is nothing to say."""
    lines = []
    for card in sorted(path for path in RESULTS.glob("*") if path.is_dir()):
        parts = records(card)
        if "steps" not in parts:
            continue
        about = parts["steps"]["machine"]
        lines += [
            f"{about['gpu']}, torch {about['torch']}, commit {about['commit']}:",
            "",
            "| model | step | images/s | of the measured matmul | memory |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['model']} | {row['row']} | {row['images/s']:,.0f} | {row['share of the matmul']:.0%} "
            f"| {row['memory GiB'] or 0:.0f} GiB |"
            for row in parts["steps"]["figures"]
            if "skipped" not in row
        ]
        lines.append("")
    return "\n".join(lines) if lines else NOTHING


def with_table(readme: str) -> str:
    """README with the table as it is now.

    Raises:
        ValueError: README has no place for it.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has lost the lines {BEGIN.strip()} and {END.strip()}; put them back.")
    return before + begin + table() + end + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
