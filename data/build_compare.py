"""Measure baseline against dispersive on digits for several seeds: ``python data/build_compare.py`` (minutes a seed).

Writes runs/digits_compare.csv and .json beside this file; notebook 03 shows them as the range to expect.
"""

from pathlib import Path

from labkit import recipes
from labkit.experiments import Protocol, over_seeds, ship

SEEDS = range(6)

if __name__ == "__main__":
    config, protocol = recipes.digits(lam=0.5, tau=0.5, steps=1500), Protocol()
    table = over_seeds(config, SEEDS, protocol)
    ship("digits_compare", table, config, protocol, Path(__file__).parent / "runs")
    print(table.groupby(["measure", "run"])["value"].describe().to_string())
