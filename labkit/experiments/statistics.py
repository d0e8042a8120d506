"""Is a difference more than chance? Runs of the same seed are paired, and every interval carries its n.

Two runs of one seed share initial weights, order of the data, noise and times, so much of what a seed does to a metric
is in both and cancels in their difference d. Over n seeds that has mean d̄ and, by Student's t with n − 1 degrees of
freedom, the 95 % interval d̄ ± t·s/√n. Intervals are not corrected for the number of comparisons: they say how large an
effect may be. The p-values are, since a reader looks for the best of many conditions: by Holm, within one measure (at
one step, block and sampler), over all conditions that are compared with the baseline there.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from labkit.checks import require
from labkit.metrics.table import metric, minus

if TYPE_CHECKING:
    import pandas as pd

PLACE = ("measure", "step", "block", "sampler")
LEVEL = 0.95


def paired_differences(table: "pd.DataFrame", baseline: str, column: str = "run") -> "pd.DataFrame":
    """Each condition minus the baseline, seed by seed.

    Args:
        table: tidy: seed, measure, value, the column of conditions; step, block and sampler where there are such.
        baseline: the condition that the others are compared with.
        column: that of conditions, ``condition`` in a sweep's table; runs of one condition differ only in seed.

    Returns:
        A row for each measure (step, block, sampler) and condition: ``n`` seeds that both have, ``baseline``, the mean
        of the baseline over them, ``difference``, the mean of d, ``low`` and ``high``, its interval, ``wins`` and
        ``ties``, seeds in which the condition is better than the baseline or equal (where neither is better, larger),
        ``p`` and ``p_holm`` of no difference, and a ``note`` where something is missing. One seed has a difference but
        no interval, and so have seeds that all differ by the same: such a measure, a share of few samples say, is too
        coarse for a t-test.

    Raises:
        ConfigError: a column is missing, no such baseline, nothing to compare, or two values for one seed.
    """
    import pandas as pd

    missing = [name for name in (column, "seed", "measure", "value") if name not in table]
    require(not missing, "table", list(table), f"it has no column {', '.join(missing)}")
    table = table[table["seed"].notna()]  # real images have none
    conditions = list(dict.fromkeys(table[column].dropna()))
    require(baseline in conditions, "baseline", baseline, f"choose one of {', '.join(map(str, conditions))}")
    require(len(conditions) > 1, column, conditions, "give another condition to compare with the baseline")
    place = [name for name in PLACE if name in table]
    twice = table.duplicated([*place, column, "seed"])
    remedy = "it has two values for one seed; name the column whose runs differ in their seeds alone"
    require(not twice.any(), column, table.loc[twice, column].iloc[0] if twice.any() else None, remedy)

    rows = []
    for where, group in table.groupby(place, dropna=False, sort=False):
        wide = group.pivot(index="seed", columns=column, values="value")
        if baseline in wide:
            others = [name for name in conditions if name in wide and name != baseline]
            group_rows = [{column: name, **_compared(wide[name], wide[baseline], where[0])} for name in others]
            adjusted = holm([row["p"] for row in group_rows])
            at = dict(zip(place, where, strict=True))
            rows += [{**at, **row, "p_holm": p} for row, p in zip(group_rows, adjusted, strict=True)]
    last = ["n", "baseline", "difference", "low", "high", "wins", "ties", "p", "p_holm", "note"]
    return pd.DataFrame(rows, columns=[*place, column, *last])


def _compared(values: "pd.Series", baseline: "pd.Series", measure: str) -> dict[str, Any]:
    import numpy as np
    from scipy.stats import ttest_1samp

    d = (values - baseline).dropna()
    alone = sorted(int(seed) for seed in {*values.index} - {*d.index})
    notes = [f"without seed{'s' if len(alone) > 1 else ''} {', '.join(map(str, alone))}: not in both"] if alone else []
    low = high = p = np.nan
    if len(d) < 2:
        notes.append("one seed: no interval" if len(d) else "no seed in both: no difference")
    elif np.ptp(d) <= 1e-9 * values.abs().max():  # nothing varies but by rounding: there is no t
        low, high, p = (0.0, 0.0, 1.0) if (d == 0).all() else (np.nan,) * 3
        notes.append("the same in every seed")
    else:
        test = ttest_1samp(d, 0.0)
        (low, high), p = test.confidence_interval(LEVEL), test.pvalue
    better = d < 0 if metric(measure).direction < 0 else d > 0
    return {
        "n": len(d),
        "baseline": baseline[d.index].mean(),
        "difference": d.mean(),
        "low": low,
        "high": high,
        "wins": int(better.sum()),
        "ties": int((d == 0).sum()),
        "p": p,
        "note": "; ".join(notes),
    }


def side(row: "pd.Series") -> str:
    """Side of 0 on which an interval of ``paired_differences`` lies.

    Returns:
        ``better`` or ``worse``; ``different`` if neither is better; ``no difference shown`` if 0 is inside, or if there
        is no interval.
    """
    if not (row["low"] > 0 or row["high"] < 0):
        return "no difference shown"
    good = metric(row["measure"]).direction
    return "different" if good == 0 else "better" if row["difference"] * good > 0 else "worse"


def holm(p: Collection[float]) -> list[float]:
    """p-values corrected for their number m by Holm (1979): the i-th smallest times m + 1 − i, never falling.

    The chance of any false finding stays at the level, however the tests depend on each other. NaN means no test.
    """
    import numpy as np
    import pandas as pd

    ordered = pd.Series(list(p), dtype=float).sort_values().dropna()
    times = np.arange(len(ordered), 0, -1)
    return (ordered * times).cummax().clip(upper=1).reindex(range(len(p))).tolist()


def describe_row(row: "pd.Series") -> str:
    """One row of ``paired_differences`` as text for a table's cell: difference, interval, wins."""
    if row["n"] >= 2 and row["low"] <= row["high"]:
        wins = f"{'better' if metric(row['measure']).direction else 'larger'} in {row['wins']} of {row['n']}"
        return f"{describe_interval(row)}, {wins}"
    difference = minus(f"{row['difference']:+.3g}")
    if row["n"] < 2:
        return f"{difference} (n = {row['n']}: no interval)"
    return f"{difference} in each of {row['n']} seeds: no interval"


def describe_interval(row: "pd.Series") -> str:
    """Difference and interval of one row of ``paired_differences``."""
    return minus(f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]")
