"""The backbone in all its sizes, taps on foreign models, and REPA's teachers and projector."""

from labkit.models.export import save_diffusers, save_official
from labkit.models.official import WeightsError, load_official
from labkit.models.projector import Projector
from labkit.models.sizes import SIZES, Family, Name, Size, build_model, features_per_sample, parse_name
from labkit.models.taps import Tap, TapError, tap
from labkit.models.teachers import DigitsTeacher, DinoTeacher, Teacher, TeacherCost, load_teacher
from labkit.models.transformer import Transformer

__all__ = [
    "SIZES",
    "DigitsTeacher",
    "DinoTeacher",
    "Family",
    "Name",
    "Projector",
    "Size",
    "Tap",
    "TapError",
    "Teacher",
    "TeacherCost",
    "Transformer",
    "WeightsError",
    "build_model",
    "features_per_sample",
    "load_official",
    "load_teacher",
    "parse_name",
    "save_diffusers",
    "save_official",
    "tap",
]
