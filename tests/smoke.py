"""Imported where a notebook is only run to see that it runs: what it draws and judges on the way is made small."""

from functools import partial

from labkit.experiments import Measures, rerun
from labkit.sampling import Sampler
from labkit.training import trainer
from labkit.widgets import live

trainer.SHEET = trainer.SHEET_STEPS = live.PREVIEWS = 2
rerun.Measures = partial(Measures, 40, (Sampler("euler", 2),))
