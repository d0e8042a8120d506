"""A recipe is a function that returns a config."""

import dataclasses

import pytest

import labkit
from labkit import Config, ConfigError, Trainer, recipes


def test_digits_is_a_frozen_config_that_runs():
    config = recipes.digits()
    assert isinstance(config, Config)
    assert config == recipes.digits()
    assert config.dispersive.lam is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 1
    report = next(iter(Trainer(config)))
    assert report.step == 1
    assert report.samples == config.batch_size


def test_changes_reach_the_config_and_nothing_else():
    changes = dict(lam=0.5, tau=0.25, blocks=(2,), batch_size=16, seed=9)
    assert set(recipes.digits().differences(recipes.digits(**changes))) == {
        "dispersive.lam: None → 0.5",
        "dispersive.tau: None → 0.25",
        "dispersive.blocks: None → (2,)",
        f"batch_size: {recipes.digits().batch_size} → 16",
        "seed: 0 → 9",
    }


def test_bad_changes_are_refused_by_name(unchecked):
    with pytest.raises(ConfigError, match=r"dispersive\.tau = 0"):
        recipes.digits(tau=0)
    with pytest.raises(TypeError, match="temperature"):
        recipes.digits(temperature=1)


def test_it_is_part_of_the_public_face():
    assert labkit.recipes.digits is recipes.digits
