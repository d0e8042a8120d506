"""Settings of a sampler: defaults by family, those that are refused, words and record."""

import dataclasses
import math
from typing import get_args

import pytest

from labkit.checks import ConfigError
from labkit.models.sizes import Family
from labkit.sampling import METHODS, SOLVERS, Method, Sampler

NAMES = [field.name for field in dataclasses.fields(Sampler)]
OTHER = {  # by setting: a value that is not the usual one
    "diffusion": "bump",
    "strength": 0.5,
    "last": 0.1,
    "eta": 1.0,
    "rtol": 1e-5,
    "atol": 1e-8,
}


def family_of(method):
    return next(family for family in METHODS if method in METHODS[family])


# --- what is filled in


@pytest.mark.parametrize(
    ("family", "method", "steps"), [("SiT", "heun", 50), ("DiT", "ddim", 50), ("MeanFlow", "meanflow", 1)]
)
def test_each_family_has_its_usual_sampler(family, method, steps):
    usual = Sampler().filled(family)
    assert (usual.method, usual.steps, usual.guidance) == (method, steps, 1)
    assert usual == Sampler(method, steps)
    assert usual.filled(family) == usual


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("euler", 50),
        ("heun", 50),
        ("dopri5", None),
        ("euler_maruyama", 250),
        ("sde_heun", 250),
        ("ancestral", 250),
        ("ddim", 50),
        ("meanflow", 1),
    ],
)
def test_each_method_has_its_usual_steps_and_takes_others(method, steps):
    family = family_of(method)
    assert Sampler(method).filled(family).steps == steps
    if steps is not None:
        assert Sampler(method, 7).filled(family).steps == 7
        assert Sampler(steps=7).filled(family).steps == 7


def test_the_tables_name_every_family_and_method():
    assert METHODS.keys() == set(get_args(Family))
    assert {m for methods in METHODS.values() for m in methods} == SOLVERS.keys() == set(get_args(Method))
    assert {name for solver in SOLVERS.values() for name in solver.settings()} == OTHER.keys() <= set(NAMES)


def test_filling_in_changes_nothing_else():
    asked = Sampler("sde_heun", 9, 2.5, "first_three", "linear", 0.3, 0.1)
    assert asked.filled("SiT") == asked


# --- what is refused


@pytest.mark.parametrize("family", METHODS)
def test_a_method_of_another_family_is_refused_by_name(family):
    for method in set(get_args(Method)) - set(METHODS[family]):
        told = rf"^method = '{method}' cannot be used: {family} models are sampled by {', '.join(METHODS[family])}\.$"
        with pytest.raises(ConfigError, match=told):
            Sampler(method).filled(family)


@pytest.mark.parametrize(("family", "method"), [(family, method) for family in METHODS for method in METHODS[family]])
def test_a_method_takes_its_own_settings_and_refuses_the_others(family, method):
    for name, value in OTHER.items():
        asked = Sampler(method, **{name: value})
        if name in SOLVERS[method].settings():
            assert getattr(asked.filled(family), name) == value
            continue
        users = " and ".join(other for other in SOLVERS if name in SOLVERS[other].settings())
        told = rf"^{name} = {value!r} cannot be used: {method} has none; it is {users}'s"
        with pytest.raises(ConfigError, match=told):
            asked.filled(family)


def test_who_chooses_its_own_steps_takes_none():
    for family in ("SiT", "MeanFlow"):
        with pytest.raises(ConfigError, match=r"^steps = 50 cannot be used: dopri5 chooses its own; say rtol"):
            Sampler("dopri5", 50).filled(family)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(("method", value, "choose one of meanflow, heun, euler") for value in ("rk4", "", 3)),
        *(("steps", value, "whole number of at least 1") for value in (0, -1, 2.5, True, "4")),
        *(("guidance", value, "at least 0") for value in (-0.1, math.nan, math.inf, None, "2")),
        *(("channels", value, "choose one of all, first_three") for value in ("three", 3, None)),
        *(("diffusion", value, "choose one of sigma, sbdm") for value in ("none", None, 1)),
        *(
            (name, value, "at least 0")
            for name in ("strength", "last", "eta", "rtol", "atol")
            for value in (-1e-9, math.nan, math.inf, None, "1", True)
        ),
    ],
)
def test_a_bad_value_is_refused_by_name_at_once(name, value, allowed):
    with pytest.raises(ConfigError, match=rf"^{name} = .*{allowed}") as error:
        Sampler(**{name: value})
    assert repr(value) in str(error.value)


def test_settings_cannot_be_changed_behind_its_back():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampler().steps = 0


# --- what is told and recorded


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        ("SiT", {}, "heun with 50 steps, guidance 1"),
        ("SiT", {"method": "dopri5", "guidance": 1.5}, "dopri5, guidance 1.5"),
        ("SiT", {"method": "euler_maruyama", "guidance": 0}, "euler_maruyama with 250 steps, guidance 0"),
        ("DiT", {"steps": 2, "guidance": 4.0}, "ddim with 2 steps, guidance 4"),
        ("MeanFlow", {}, "meanflow with 1 step, guidance 1"),
        ("MeanFlow", {"steps": 2}, "meanflow with 2 steps, guidance 1"),
    ],
)
def test_words_for_a_caption(family, settings, told):
    assert Sampler(**settings).describe(family) == told


def test_words_for_what_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"^method = 'heun'"):
        Sampler("heun").describe("DiT")


@pytest.mark.parametrize(
    ("family", "settings", "more"),
    [
        ("SiT", {}, {"method": "heun", "steps": 50}),
        ("SiT", {"method": "dopri5"}, {"steps": None, "rtol": 1e-3, "atol": 1e-6}),
        ("SiT", {"method": "sde_heun", "steps": 9, "last": 0.1}, {"diffusion": "sigma", "strength": 1.0, "last": 0.1}),
        ("DiT", {"eta": 0.5, "guidance": 2}, {"method": "ddim", "steps": 50}),
        ("DiT", {"method": "ancestral"}, {"steps": 250}),
        ("DiT", {"clip": True}, {"method": "ddim", "steps": 50, "eta": 0.0}),
        ("MeanFlow", {"guidance": 1.5, "channels": "first_three"}, {"method": "meanflow", "steps": 1}),
        ("MeanFlow", {"guidance": 1.5}, {"method": "meanflow", "steps": 1}),
    ],
)
def test_the_record_holds_what_matters_and_no_more(family, settings, more):
    filled = Sampler(**settings).filled(family)
    assert filled.record() == {"guidance": 1.0} | more | settings
    assert type(filled.record()["guidance"]) is float


def test_channels_that_nothing_guides_are_not_recorded():
    assert "channels" not in Sampler(channels="first_three").filled("SiT").record()
    assert "clip" not in Sampler().filled("DiT").record()


@pytest.mark.parametrize(("family", "method"), [(family, method) for family in METHODS for method in METHODS[family]])
def test_a_record_makes_the_same_sampler(family, method):
    own = {name: OTHER[name] for name in SOLVERS[method].settings()}
    filled = Sampler(method, guidance=3.0, channels="first_three", **own).filled(family)
    assert Sampler(**filled.record()).filled(family) == filled
