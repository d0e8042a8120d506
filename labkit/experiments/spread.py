"""Tables of how features of runs lie in space: by block, by time, by step, and what can be read from them.

All are tidy: one row per value. Features come from ``Run.features``, so a second call takes moments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from labkit.checks import check_whole
from labkit.metrics import alignment, cka_table, geometry, knn_accuracy, linear_probe_accuracy
from labkit.training import Look, Run

if TYPE_CHECKING:
    import pandas as pd

Times = Iterable[float | None]


def geometry_table(
    runs: Mapping[str, Run],
    times: Times = (0.5,),
    blocks: Iterable[int] | None = None,
    steps: Iterable[int] | None = None,
    look: Look = Look(),
) -> "pd.DataFrame":
    """Table of run, step, block, t, measure, value: those of ``geometry``, and the ``alignment`` of two views.

    Args:
        runs: name → run.  times: of the inputs, each instead of ``look.t``.
        blocks: numbers from 0; by default all.  steps: by default each run's last.
        look: which inputs; the second view has the next seed.

    Raises:
        ConfigError: a step, block or time that cannot be.
    """
    import pandas as pd

    rows, times, blocks, steps = [], list(times), _listed(blocks), _listed(steps)
    for name, run in runs.items():
        for step in run.steps[-1:] if steps is None else steps:
            for t in times:
                views = [run.features(replace(look, t=t, seed=look.seed + k), blocks, step).features for k in (0, 1)]
                for block, z in views[0].items():
                    values = geometry(z) | {"alignment": alignment(z, views[1][block])}
                    rows += [(name, step, block, t, measure, value) for measure, value in values.items()]
    return pd.DataFrame(rows, columns=["run", "step", "block", "t", "measure", "value"])


def probe_table(
    runs: Mapping[str, Run],
    times: Times = (0.5,),
    blocks: Iterable[int] | None = None,
    step: int | None = None,
    labelled: bool = False,
    count: int = 2000,
    k: int = 20,
) -> "pd.DataFrame":
    """Table of run, block, t, measure, value: held-out accuracy of ``knn`` and of a ``linear_probe``.

    Args:
        runs: name → run.  times: of the inputs.  blocks: by default all.  step: by default each run's last.
        labelled: give the model the class, which the probe then reads off its features: nearly always a mistake.
        count: at most so many images of each split.  k: neighbours.

    Raises:
        ConfigError: as ``geometry_table``, or k beyond the training images.
    """
    import pandas as pd

    check_whole("k", k, 1, count, why="the number of images to learn from")
    rows, times, blocks = [], list(times), _listed(blocks)
    for name, run in runs.items():
        for t in times:
            train, held_out = (
                run.features(Look(t, count, labelled, split), blocks, step) for split in ("train", "held_out")
            )
            for block, z in held_out.features.items():
                sets = train.features[block], train.y, z, held_out.y
                rows.append((name, block, t, "knn", knn_accuracy(*sets, k=min(k, len(train.y)))))
                rows.append((name, block, t, "linear_probe", linear_probe_accuracy(*sets)))
    return pd.DataFrame(rows, columns=["run", "block", "t", "measure", "value"])


def similarity_table(
    runs: Mapping[str, Run], look: Look = Look(), blocks: Iterable[int] | None = None, step: int | None = None
) -> "pd.DataFrame":
    """Linear CKA of every (run, block) with every other, 0 to 1; blind to rotation and scale.

    Args:
        runs: name → run.  look: which inputs.  blocks: by default all.  step: by default each run's last.
    """
    blocks = _listed(blocks)
    return cka_table(
        {
            (name, block): z
            for name, run in runs.items()
            for block, z in run.features(look, blocks, step).features.items()
        }
    )


def _listed(numbers: Iterable[int] | None) -> list[int] | None:
    """A list of an iterator, which could be read only once, but is needed for every run."""
    return None if numbers is None else list(numbers)
