"""Settings of a sampler: defaults by family, those that are refused, words and record."""

import math
from typing import get_args

import pytest

from labkit.checks import ConfigError
from labkit.models.sizes import Family
from labkit.sampling import METHODS, SOLVERS, Method, Sampler

OTHER = {  # for each setting of some methods alone, a value that is not the default
    "diffusion": "bump",
    "strength": 0.5,
    "last": 0.1,
    "last_step": "euler",
    "eta": 1.0,
    "rtol": 1e-5,
    "atol": 1e-8,
}
PAIRS = [(family, method) for family in METHODS for method in METHODS[family]]
STEPS = {"euler": 50, "heun": 50, "dopri5": None, "euler_maruyama": 250, "sde_heun": 250, "ancestral": 250, "ddim": 50}


def test_the_tables_hold_every_family_method_and_setting():
    assert METHODS.keys() == set(get_args(Family))
    assert {m for methods in METHODS.values() for m in methods} == SOLVERS.keys() == set(get_args(Method))
    assert {name for solver in SOLVERS.values() for name in solver.settings()} == OTHER.keys()


@pytest.mark.parametrize(("family", "method"), [("SiT", "heun"), ("DiT", "ddim"), ("MeanFlow", "meanflow")])
def test_each_family_has_its_default_sampler(family, method):
    default = Sampler().filled(family)
    assert default == Sampler(method, {"meanflow": 1}.get(method, 50), 1.0, "all") == default.filled(family)
    assert Sampler(steps=7).filled(family) == Sampler(method, 7, 1.0, "all")


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_each_method_has_its_default_steps_and_keeps_other_settings(family, method):
    assert Sampler(method).filled(family).steps == (STEPS | {"meanflow": 1})[method]
    own = {name: OTHER[name] for name in SOLVERS[method].settings()}
    steps = None if method == "dopri5" else 7
    settings = Sampler(method, steps, 3.0, "first_three", (0.25, 1.0), **own)
    filled = settings.filled(family)
    assert filled == settings
    assert Sampler(**filled.record()).filled(family) == filled  # a record makes the same sampler


@pytest.mark.parametrize("family", METHODS)
def test_a_method_of_another_family_is_refused_with_those_of_this_one(family):
    for method in set(get_args(Method)) - set(METHODS[family]):
        for use in (Sampler.filled, Sampler.describe):
            with pytest.raises(ConfigError, match=rf"^method = '{method}' .*{', '.join(METHODS[family])}"):
                use(Sampler(method), family)


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_setting_that_the_method_does_not_use_is_refused_with_those_that_do(family, method):
    for name in OTHER.keys() - set(SOLVERS[method].settings()):
        users = " and ".join(other for other in SOLVERS if name in SOLVERS[other].settings())
        with pytest.raises(ConfigError, match=rf"^{name} = {OTHER[name]!r} .*{method} .* {users}\.$"):
            Sampler(method, **{name: OTHER[name]}).filled(family)


def test_a_method_that_chooses_its_own_steps_takes_none():
    with pytest.raises(ConfigError, match=r"^steps = 50 .*dopri5 .*rtol"):
        Sampler("dopri5", 50).filled("SiT")


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("method", ("rk4", "", 3), "meanflow, heun, euler"),
        ("steps", (0, 2.5, True, "4"), "whole number of at least 1"),
        ("guidance", (-0.1, math.nan, math.inf, "2"), "at least 0"),
        ("guidance_interval", ((0.5,), (0.7, 0.3), (-0.1, 1), (0, math.nan), None), "within 0 to 1"),
        ("channels", ("three",), "all, first_three"),
        ("last_step", ("Mean", None), "mean, tweedie, euler, none"),
        ("diffusion", ("none", None), "sigma, sbdm"),
        *((name, (-1e-9, math.nan, None, True), "at least 0") for name in ("strength", "last", "eta")),
        *((name, (0, -1e-9, math.inf, "1"), "above 0") for name in ("rtol", "atol")),
        ("eta", (1.1,), "at most 1"),
        ("last", (0.0005, 1.0), "at least 0.001 and below 1"),
    ],
)
def test_a_bad_value_is_refused_by_name_at_once(name, values, allowed, unchecked):
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{name} = .*{allowed}") as error:
            Sampler(**{name: value})
        assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_interval": (0.3, 1)}, r"^guidance_interval = \(0\.3, 1\.0\) .*guidance is 1; set it"),
        ({"method": "sde_heun", "last_step": "none", "last": 0.1}, r"^last = 0\.1 .*no last step"),
    ],
)
def test_a_setting_that_another_makes_idle_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampler(**settings).filled("SiT")


@pytest.mark.parametrize(
    ("family", "settings", "text"),
    [
        ("SiT", {"method": "dopri5", "guidance": 1.5}, "dopri5, guidance 1.5"),
        ("DiT", {"steps": 2, "guidance": 4.0}, "ddim with 2 steps, guidance 4"),
        ("MeanFlow", {}, "meanflow with 1 step, guidance 1"),
        (
            "SiT",
            {"guidance": 1.8, "channels": "first_three", "guidance_interval": (0.3, 1)},
            "heun with 50 steps, guidance 1.8 on three channels from t = 0.3 to 1",
        ),
    ],
)
def test_words_for_a_caption(family, settings, text):
    assert Sampler(**settings).describe(family) == text


@pytest.mark.parametrize(
    ("family", "settings", "more"),
    [
        ("SiT", {}, {"method": "heun", "steps": 50}),
        ("SiT", {"method": "dopri5"}, {"steps": None, "rtol": 1e-3, "atol": 1e-6}),
        ("SiT", {"method": "sde_heun", "steps": 9, "last": 0.1}, {"diffusion": "sigma", "strength": 1.0}),
        (
            "SiT",
            {"method": "euler_maruyama", "steps": 9, "last_step": "tweedie"},
            {"diffusion": "sigma", "strength": 1.0, "last": 0.04},
        ),
        ("SiT", {"guidance": 2.0, "guidance_interval": (0.3, 1.0)}, {"method": "heun", "steps": 50}),
        ("DiT", {"eta": 0.5, "guidance": 2}, {"method": "ddim", "steps": 50}),
        ("DiT", {"clip": True}, {"method": "ddim", "steps": 50, "eta": 0.0}),
        ("MeanFlow", {"guidance": 1.5, "channels": "first_three"}, {"method": "meanflow", "steps": 1}),
    ],
)
def test_the_record_holds_the_settings_that_matter(family, settings, more):
    record = Sampler(**settings).filled(family).record()
    assert record == {"guidance": 1.0} | more | settings
    assert type(record["guidance"]) is float


def test_channels_are_not_recorded_without_guidance():
    assert "channels" not in Sampler(channels="first_three").filled("SiT").record()
