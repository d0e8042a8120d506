"""A recipe is a function that returns a config."""

import pytest

from labkit import ConfigError, Trainer, recipes
from labkit.scale import PAPER_STEPS


@pytest.mark.parametrize("recipe", [recipes.digits, recipes.letters, recipes.emoji])
def test_a_recipe_runs_and_takes_changes(recipe, unchecked):
    assert next(iter(Trainer(recipe(batch_size=8)))).samples == 8
    assert recipe().differences(recipe(lam=0.5, seed=9)) == ["dispersive.lam: None → 0.5", "seed: 0 → 9"]
    with pytest.raises(ConfigError, match=r"dispersive\.tau = 0"):
        recipe(tau=0)
    with pytest.raises(TypeError, match="temperature"):
        recipe(temperature=1)


def test_recipes_for_a_gpu_have_the_settings_of_the_papers(unchecked):
    """Two official settings, and a step count of 80 epochs of 1,281,167 images."""
    paper, release = recipes.imagenet256(preset="paper"), recipes.imagenet256("SiT-B/2", preset="release")
    d = paper.dispersive
    assert (d.lam, d.tau, d.chunk, d.blocks) == (0.5, 0.5, 16, None)
    d = release.dispersive
    assert (d.lam, d.tau, d.chunk, d.blocks) == (0.25, 1.0, 32, "last")
    assert (paper.optimizer.betas, release.optimizer.betas) == ((0.9, 0.95), (0.9, 0.999))
    assert paper.optimizer.lr == release.optimizer.lr == 1e-4
    assert (paper.batch_size, paper.ema_decay, paper.label_drop) == (256, 0.9999, 0.1)
    assert paper.steps == PAPER_STEPS
    base = recipes.imagenet256(preset="baseline")
    assert base.regularizers == ()
    assert base.baseline() == paper.baseline()
    assert recipes.imagenet256(preset="meanflow").model == "MeanFlow-XL/2"
    assert recipes.imagenet256(preset="repa_dispersive").regularizers == ("dispersive", "repa")
    with pytest.raises(ConfigError, match="preset = 'best'"):
        recipes.imagenet256(preset="best")
