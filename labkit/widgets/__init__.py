"""Panels of the notebooks: each a small state model that needs no browser, and a view that shows it."""

from labkit.widgets.ablations import Ablations, ablations_panel
from labkit.widgets.explorer import Explorer
from labkit.widgets.explorer_view import explorer_panel
from labkit.widgets.flow import Interpolant, Sampler, interpolant_panel, sampler_panel
from labkit.widgets.forces import Cloud, FourLosses, PairForce, cloud_panel, force_panel, variants_panel
from labkit.widgets.honesty import Shrunk, shrunk_panel
from labkit.widgets.hunt import Hunt, hunt_panel
from labkit.widgets.live import LiveTraining
from labkit.widgets.moons import Moons, moons_panel
from labkit.widgets.panel import Panel
from labkit.widgets.playground import playground
from labkit.widgets.prediction import Answer, NotMeasured, Predictions
from labkit.widgets.questions import Questions, questions_panel
from labkit.widgets.runner import Runner
from labkit.widgets.scale import Scale, scale_panel
from labkit.widgets.secant import Secant, secant_panel
from labkit.widgets.springs import Partners, Springs, partners_panel, springs_panel
from labkit.widgets.training import training_panel, watch_panel
from labkit.widgets.views import TwoViews, views_panel
from labkit.widgets.watch import Watch

__all__ = [
    "Ablations",
    "Answer",
    "Cloud",
    "Explorer",
    "FourLosses",
    "Hunt",
    "Interpolant",
    "LiveTraining",
    "Moons",
    "NotMeasured",
    "PairForce",
    "Panel",
    "Partners",
    "Predictions",
    "Questions",
    "Runner",
    "Sampler",
    "Scale",
    "Secant",
    "Shrunk",
    "Springs",
    "TwoViews",
    "Watch",
    "ablations_panel",
    "cloud_panel",
    "explorer_panel",
    "force_panel",
    "hunt_panel",
    "interpolant_panel",
    "moons_panel",
    "partners_panel",
    "playground",
    "questions_panel",
    "sampler_panel",
    "scale_panel",
    "secant_panel",
    "shrunk_panel",
    "springs_panel",
    "training_panel",
    "variants_panel",
    "views_panel",
    "watch_panel",
]
