"""Model names and the parameter counts that the papers' models have."""

import re

import pytest
import torch

from labkit.checks import ConfigError
from labkit.models import SIZES, build_model

COUNTS = {
    "S/4": 32_945_024,
    "S/8": 33_148_160,
    "B/4": 130_475_648,
    "B/8": 130_881_536,
    "L/4": 458_053_760,
    "L/8": 458_594_816,
    "XL/2": 675_129_632,
    "XL/4": 675_074_432,
    "XL/8": 675_683_072,
}
MILLIONS = {"S/2": 32.96, "B/2": 130.51, "L/2": 458.10}  # published only as such


def parameters(name, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(name, **options).parameters())


@pytest.mark.parametrize("family", ["SiT", "DiT"])
def test_parameter_counts_are_those_of_the_published_models(family):
    assert {name: parameters(f"{family}-{name}") for name in COUNTS} == COUNTS
    assert {name: round(parameters(f"{family}-{name}") / 1e6, 2) for name in MILLIONS} == MILLIONS
    assert parameters("SiT-Nano/2") <= 500_000  # for laptops


@pytest.mark.parametrize(
    "name", ["SiT-H/2", "SiT-B", "SiT-B/0", "SiT-B/02", "SiT-B/-2", "UiT-B/2", "sit-b/2", "", " SiT-B/2"]
)
def test_any_other_name_is_refused_with_the_sizes(name):
    with pytest.raises(ConfigError, match=re.escape(f"model = {name!r}")) as error:
        build_model(name)
    assert all(size in str(error.value) for size in SIZES)


@pytest.mark.parametrize(("side", "patch"), [(9, 2), (32, 64)])
def test_the_patch_must_divide_the_image(side, patch):
    with pytest.raises(ConfigError, match=rf"^input_size = {side} .*patches of {patch}"):
        build_model(f"SiT-Nano/{patch}", input_size=side)


def test_a_dit_needs_and_returns_its_learnt_variance():
    with torch.device("meta"):
        x, t, y = torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2, dtype=torch.long)
        assert build_model("DiT-S/8")(x, t, y).output.shape == (2, 8, 32, 32)
        for learn_sigma in (True, False):
            network = build_model("SiT-S/2", learn_sigma=learn_sigma)
            assert network(x, t, y).output.shape == (2, 4, 32, 32)
            assert network.final_layer.linear.out_features == 16 * (1 + learn_sigma)
    with pytest.raises(ConfigError, match=r"^learn_sigma = False "):
        build_model("DiT-S/8", learn_sigma=False)
