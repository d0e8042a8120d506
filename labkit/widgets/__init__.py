"""Panels of the notebooks: each a small state model that needs no browser, and a view that shows it."""

from labkit.widgets.flow import Interpolant, Sampler, interpolant_panel, sampler_panel
from labkit.widgets.forces import Cloud, PairForce, cloud_panel, force_panel
from labkit.widgets.live import LiveTraining
from labkit.widgets.panel import Panel
from labkit.widgets.prediction import Answer, NotMeasured, Predictions
from labkit.widgets.runner import Runner
from labkit.widgets.springs import Springs, springs_panel
from labkit.widgets.training import training_panel

__all__ = [
    "Answer",
    "Cloud",
    "Interpolant",
    "LiveTraining",
    "NotMeasured",
    "PairForce",
    "Panel",
    "Predictions",
    "Runner",
    "Sampler",
    "Springs",
    "cloud_panel",
    "force_panel",
    "interpolant_panel",
    "sampler_panel",
    "springs_panel",
    "training_panel",
]
