"""A comparison as one HTML page that needs no network and no server."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import datasets
from labkit.disk import replace_file
from labkit.experiments.compare import ComparisonResult
from labkit.objective import metered_floor, regularized_blocks
from labkit.plots.comparison import cost_figure, curves_figure, samples_figure, spread_figure
from labkit.plots.describe import describe, fold
from labkit.plots.tables import metrics_table
from labkit.plots.theme import FONT
from labkit.runtime import machine

if TYPE_CHECKING:
    import pandas as pd

STYLE = f"""
body {{ font-family: {FONT}; color: #222; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: 4px 14px; border-bottom: 1px solid #e3e3e3; text-align: right; }}
figure {{ margin: 2rem 0; }}
summary {{ color: #8a8a8a; font-size: 12px; cursor: pointer; }}
th:first-child {{ text-align: left; }}
pre {{ background: #f6f6f6; padding: 10px; overflow-x: auto; font-size: 12px; }}
"""


def write_page(path: Path, result: ComparisonResult, histories: Mapping[str, "pd.DataFrame"]) -> Path:
    """Write table, curves, samples, spread, cost, and how all of it was made; return the path.

    Args:
        path: the HTML file to write (some 100 kB).
        result: what ``Comparison.evaluate`` returns.  histories: each run's metrics.csv.
    """
    config = list(result.configs.values())[-1]
    floor = metered_floor(config, datasets.load(config.dataset).size)
    figures = [
        samples_figure(result),
        curves_figure(histories, regularized_blocks(config)[0], floor),
        spread_figure(result),
        cost_figure(result),
    ]
    shown = [f"<figure>{figure.svg()}{fold(describe(figure))}</figure>" for figure in figures]
    table = metrics_table(result.table().drop(columns=["steps", "images_per_second"])).T.to_html(border=0)
    origin = {"configs": {n: json.loads(c.to_json()) for n, c in result.configs.items()}, "machine": machine()}
    names = " against ".join(result.configs)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>labkit: {names}</title>
<style>{STYLE}</style></head><body>
<h1>{names}</h1>
<p>{result.finding()}</p>
{table}
<p>Samples: {result.describe()}. They are compared with held-out images of {config.dataset}: the Fréchet
distance on the 64 features of the lab's classifier, that of pixels on 32 pixel-PCA components, FID on Inception's; the
last column is what as many real training images score (mean of several draws), and <i>above real</i> means the
distance above that. Geometry is that of the metered block. One seed proves nothing: try others.</p>
{"".join(shown)}
<h2>How this was made</h2>
<pre>{html.escape(json.dumps(origin, indent=1, ensure_ascii=False))}</pre>
</body></html>"""
    replace_file(path, text.encode())
    return path
