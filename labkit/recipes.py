"""Named experiments. Each recipe is a function that returns a Config; its docstring says what to expect."""

from typing import Any

from labkit.config import Config, Optimizer


def digits(**changes: Any) -> Config:
    """SiT-Nano/2 on scikit-learn's 8×8 digits: the laptop's experiment.

        labkit train digits --out runs/baseline
        labkit train digits --dispersive.lam 0.5 --dispersive.tau 0.5 --out runs/dispersive

    Expect about 3,000 images/s on two cores, so a minute for 1,500 steps. There the baseline's samples are read as the
    digit asked for in 95 % of cases (Heun, 50 steps, no guidance; six seeds, data/runs/digits_compare.csv).

    Args:
        changes: any field of ``Config``, and ``lam``, ``tau``, ``variant``, ``blocks`` of its Dispersive Loss.
    """
    base = Config(dataset="digits", model="SiT-Nano/2", optimizer=Optimizer(lr=2e-3), ema_decay=0.995)
    return base.replace(**changes)
