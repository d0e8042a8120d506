"""A recipe is a function that returns a config."""

import pytest
import tyro

from labkit import ConfigError, Trainer, recipes
from labkit.arguments import _experiment, with_recipes
from labkit.objective import blocks_of
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
    assert recipes.imagenet256("DiT-B/2", preset="paper").optimizer.betas == (0.9, 0.999)  # of its own code
    assert paper.optimizer.lr == release.optimizer.lr == 1e-4
    assert (paper.batch_size, paper.ema_decay, paper.label_drop) == (256, 0.9999, 0.1)
    assert paper.steps == PAPER_STEPS
    base = recipes.imagenet256(preset="baseline")
    assert base.regularizers == ()
    assert base.baseline() == paper.baseline()
    assert recipes.imagenet256(preset="repa_dispersive").regularizers == ("dispersive", "repa")
    with pytest.raises(ConfigError, match="preset = 'best'"):
        recipes.imagenet256(preset="best")


@pytest.mark.parametrize(("model", "block"), [("SiT-B/2", 3), ("SiT-L/2", 7), ("SiT-XL/2", 7)])
def test_the_preset_of_repa_is_that_of_its_code(model, block):
    """Its train.py: --encoder-depth 8 (4 for B), --max-grad-norm 1, AdamW's own betas, a data set without flips."""
    for preset in ("repa", "repa_dispersive"):
        config = recipes.imagenet256(model, preset=preset)
        assert blocks_of(config.repa, model) == (block,)
        assert (config.repa.lam, config.repa.hidden, config.repa.antialias) == (0.5, 2048, True)
        assert (config.engine.clip, config.flips, config.optimizer.betas) == (1.0, False, (0.9, 0.999))
    others = [recipes.imagenet256(preset=preset) for preset in ("baseline", "paper", "release")]
    assert {(config.engine.clip, config.flips) for config in others} == {(None, True)}


def test_the_presets_of_meanflow_are_guided_but_one_and_say_so():
    """ω, κ, first t (in our time) and epochs."""

    def settings(model=None, preset="meanflow"):
        config = recipes.imagenet256(model, preset=preset)
        m = config.meanflow
        return config.model, m.guidance, m.mixing, m.guidance_interval, config.steps / PAPER_STEPS

    xl = ("MeanFlow-XL/2", 0.2, 0.92, (0.25, 1.0), 3)
    assert settings() == settings(preset="meanflow_dispersive") == xl
    assert settings("MeanFlow-B/4") == ("MeanFlow-B/4", 1.0, 0.5, (0.0, 1.0), 3)
    assert settings(preset="meanflow_unguided") == ("MeanFlow-XL/2", 1.0, 0.0, (0.0, 1.0), 1)
    assert recipes.imagenet256(preset="meanflow_dispersive").regularizers == ("dispersive",)
    assert recipes.imagenet256(preset="meanflow").optimizer.betas == (0.9, 0.95)
    with pytest.raises(ConfigError, match=r"^model = 'SiT-B/2' .*MeanFlow-XL/2"):
        recipes.imagenet256("SiT-B/2", preset="meanflow")


def test_on_the_command_line_the_model_chooses_its_settings_too():
    for words, block, beta in (("--preset repa --model SiT-L/2", 7, 0.999), ("--model DiT-L/2", None, 0.999)):
        words = ["imagenet256", *words.split()]
        config, _ = tyro.cli(with_recipes(_experiment, words), args=words)
        assert (config.repa.block, config.optimizer.betas[1], config.model) == (block, beta, words[-1])
