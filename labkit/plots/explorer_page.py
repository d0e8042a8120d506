"""The explorer that needs no Python: one HTML page with the playground and the atlas in it, which opens from a file.

    explorer/page.html   headings, controls and figures, and what they show, in words
    explorer/page.css    the look, in light and dark
    explorer/*.js        controls and drawing, and the two parts that use them

The page looks numbers up and draws them, as they ship; it measures nothing and fetches nothing. Notebooks show its
first part, the playground.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.disk import replace_file
from labkit.evaluation import REAL
from labkit.evaluation.settings import whole_set
from labkit.experiments.atlas import COORDINATES, DATASETS, UNLIKE, VARIANTS, ZERO, Atlas, describe_point
from labkit.experiments.playground import NUMBERS, Playground
from labkit.experiments.statistics import describe_row, side
from labkit.metrics.table import METRICS, MetricInfo, metric
from labkit.plots.theme import FONT

if TYPE_CHECKING:
    import pandas as pd

PARTS = Path(__file__).parent / "explorer"
MAPS = ("pca", "umap")
DIGITS = 5
"""Significant digits of the numbers in the page."""


def write_explorer(path: Path) -> Path:
    """Write the page with the shipped atlas and playground, and return its path."""
    replace_file(path, explorer_page(Atlas.load(), Playground.load()).encode())
    return path


def explorer_page(atlas: Atlas | None, playground: Playground) -> str:
    """The page as text; without an atlas it is the playground alone."""
    data: dict[str, Any] = {"playground": _playground(playground), "unlike": UNLIKE, "zero": ZERO}
    if atlas is not None:
        data["atlas"] = _atlas(atlas)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    page = (PARTS / "page.html").read_text(encoding="utf-8")
    style = (PARTS / "page.css").read_text(encoding="utf-8").replace("FONT", FONT)
    scripts = ("draw.js", "playground.js") if atlas is None else ("draw.js", "playground.js", "atlas.js")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in scripts)
    for name, part in {"STYLE": style, "DATA": text, "SCRIPT": script}.items():
        page = page.replace(f"<!-- {name} -->", part, 1)
    return page


def _playground(playground: Playground) -> dict[str, Any]:
    arrays, record = playground.arrays, playground.record
    conditions = {
        name: {
            "label": describe_point(point),
            "at": {key: point[key] for key in COORDINATES},
            "reach": _reach(playground.conditions[name].repelling.arguments),
            "numbers": [[_short(value) for value in age] for age in arrays["numbers"][i].tolist()],
            "shares": [_short(value) for value in arrays["shares"][i].tolist()],
            "counts": arrays["counts"][i].tolist(),
        }
        for i, (name, point) in enumerate(playground.points.items())
    }
    return {
        "origin": playground.describe(),
        "made": f"{record['made']}, by {record['command']}",
        **{name: record[name] for name in ("ages", "block", "images", "t", "unit")},
        "edges": [_short(edge) for edge in arrays["edges"].tolist()],
        "classes": arrays["classes"].tolist(),
        "places": _base64(arrays["places"].astype("<i2")),
        "samples": _base64(arrays["samples"]),
        "names": NUMBERS,
        "variants": {name: VARIANTS[name] for name in dict.fromkeys(c["at"]["variant"] for c in conditions.values())},
        "conditions": conditions,
    }


def _reach(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Distance up to which pairs repel each other: √τ for L2, √ε for the hinge; the others have none."""
    for variant, name, symbol in (("infonce_l2", "tau", "√τ"), ("hinge", "margin", "√ε")):
        if arguments["variant"] == variant:
            return {"symbol": symbol, "value": _short(arguments[name] ** 0.5)}
    return None


def _atlas(atlas: Atlas) -> dict[str, Any]:
    shown = atlas.table[atlas.table["measure"].isin(METRICS) & atlas.table["condition"].isin(atlas.conditions)]
    findings = atlas.findings[atlas.findings["measure"].isin(METRICS)]
    order = list(METRICS)
    order = order[order.index("frechet") :] + order[: order.index("frechet")]  # samples and losses, then features
    names = [name for name in order if name in set(shown["measure"])]
    return {
        "made": f"{atlas.record['made']}, by {atlas.record['command']}",
        "about": atlas.describe(),
        "conditions": {name: _condition(atlas, name) for name in atlas.conditions},
        "choices": {name: atlas.choices(name) for name in COORDINATES},
        "variants": {name: VARIANTS.get(name, name) for name in atlas.choices("variant")},
        "datasets": DATASETS,
        "metrics": {name: _metric(metric(name)) for name in names},
        "questions": {name: text for name, text in atlas.questions.items() if name in set(findings["question"])},
        "findings": _findings(findings),
        "values": {name: _values(rows) for name, rows in shown.groupby("condition", sort=False)},
        "real": _real(atlas.table),
        "samples": {
            name: {"shape": images.shape[1:], "bytes": _base64(images)} for name, images in atlas.samples.items()
        },
        "map": _map(atlas.maps),
    }


def _condition(atlas: Atlas, name: str) -> dict[str, Any]:
    rows = atlas.table[atlas.table["condition"] == name]
    return {
        "label": describe_point(atlas.points[name]),
        "at": {key: atlas.points[name][key] for key in COORDINATES},
        "baseline": atlas.baseline(name),
        "block": atlas.block(name),
        "images": whole_set(atlas.conditions[name].dataset),
        "step": atlas.step(name),
        "seeds": atlas.record["seeds_of_each"][name],
        "commits": sorted(rows["commit"].dropna().unique()),
        "machines": sorted(rows["machine"].dropna().unique()),
    }


def _metric(info: MetricInfo) -> dict[str, Any]:
    return {"title": info.title, "label": info.label, "direction": info.direction, "percent": info.percent}


def _findings(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """A row for each difference: where it was measured, its interval, and what both say in words."""
    rows = []
    for _, row in table.iterrows():
        place = {name: row[name] for name in ("question", "condition", "against", "measure")}
        place |= {name: _missing(row[name]) for name in ("step", "block", "sampler")}
        ends = {name: _short(row[name]) for name in ("difference", "low", "high")}
        rows.append({**place, **ends, "n": int(row["n"]), "side": side(row), "text": describe_row(row)})
    return rows


def _values(rows: "pd.DataFrame") -> dict[str, list[list[Any]]]:
    """Measure → [step, block, sampler, value by seed] for each place at which it was measured."""
    values: dict[str, list[list[Any]]] = {}
    for (measure, step, block, sampler), own in rows.groupby(
        ["measure", "step", "block", "sampler"], dropna=False, sort=False
    ):
        by_seed = {str(seed): _short(value) for seed, value in zip(own["seed"], own["value"], strict=True)}
        values.setdefault(measure, []).append([*map(_missing, (step, block, sampler)), by_seed])
    return values


def _real(table: "pd.DataFrame") -> dict[str, dict[str, float | None]]:
    """Data set → metrics of its real images, as ``Atlas.real`` gives them."""
    rows = table[(table["run"] == REAL) & table["measure"].isin(METRICS)].drop_duplicates(["dataset", "measure"])
    return {
        dataset: {name: _short(value) for name, value in zip(own["measure"], own["value"], strict=True)}
        for dataset, own in rows.groupby("dataset")
    }


def _map(table: "pd.DataFrame") -> dict[str, Any]:
    """Places of images by two projections, as whole numbers; times their unit they are coordinates."""
    units = {name: float(np.abs(table[[f"{name}_1", f"{name}_2"]].to_numpy()).max() / 32767) for name in MAPS}
    panes = {}
    for condition, own in table.groupby("condition", sort=False):
        places = {
            name: _base64((own[[f"{name}_1", f"{name}_2"]].to_numpy() / units[name]).round().astype("<i2"))
            for name in MAPS
        }
        panes[condition] = {**places, "trustworthiness": _short(own["trustworthiness"].iloc[0])}
    first = table[table["condition"] == table["condition"].iloc[0]]
    return {"units": units, "block": int(table["block"].iloc[0]), "labels": first["label"].tolist(), "panes": panes}


def _short(value: float) -> float | None:
    """A number with as many digits as the page shows at most; None for what is not finite."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _missing(value: Any) -> Any:
    """None for a missing value; whole numbers as such."""
    import pandas as pd

    if pd.isna(value):
        return None
    return value if isinstance(value, str) else int(value)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
