"""The Fréchet distance on given features against closed forms, its pixel control, and class agreement."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from labkit.checks import ConfigError
from labkit.metrics import PixelPca, class_agreement, frechet_distance


def sample(mean, root, n=64):
    """n points with exactly this mean and the covariance root·rootᵀ: noise, whitened, then shaped."""
    noise = torch.randn(n, len(mean), dtype=torch.float64)
    noise -= noise.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.T.cov()), noise.T, upper=False).T
    return white @ root.T + mean


def test_samples_have_the_moments_they_are_made_for():
    root = torch.randn(5, 5, dtype=torch.float64)
    made = sample(torch.arange(5).double(), root)
    torch.testing.assert_close(made.mean(dim=0), torch.arange(5).double())
    torch.testing.assert_close(made.T.cov(), root @ root.T)


@pytest.mark.parametrize(
    ("shift", "widths", "other"),
    [
        ((0, 0, 0), (1, 1, 1), (1, 1, 1)),
        ((3, 0, -4), (1, 1, 1), (1, 1, 1)),
        ((0, 0, 0), (1, 2, 3), (2, 2, 0.5)),
        ((1, 1, 1), (0.1, 5, 1), (0.2, 1, 1)),
    ],
)
def test_axis_aligned_gaussians_differ_by_means_and_deviations(shift, widths, other):
    shift, widths, other = (torch.tensor(v, dtype=torch.float64) for v in (shift, widths, other))
    a, b = sample(torch.zeros(3).double(), widths.diag()), sample(shift, other.diag(), n=100)
    expected = (shift.square().sum() + (widths - other).square().sum()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)


def test_any_two_sets_agree_with_scipys_matrix_root():
    a = torch.randn(40, 6) @ torch.randn(6, 6)
    b = torch.randn(70, 6) @ torch.randn(6, 6) + 2
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_it_is_symmetric_zero_for_the_same_set_and_blind_to_order_and_rotation():
    a, b = torch.randn(50, 8), torch.randn(60, 8) * 2 + 1
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    value = frechet_distance(a, b)
    assert value > 1
    assert frechet_distance(b, a) == pytest.approx(value)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(value, rel=1e-4)
    assert frechet_distance(a, a[torch.randperm(50)]) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-5)


def test_float64_holds_a_small_distance_beside_a_large_mean():
    a = sample(torch.full((4,), 1e3).double(), torch.eye(4).double())
    b = sample(torch.full((4,), 1e3 + 0.01).double(), torch.eye(4).double())
    assert frechet_distance(a, b) == pytest.approx(4e-4, rel=1e-2)


def test_few_samples_of_one_source_show_the_upward_bias():
    few, many = (frechet_distance(torch.randn(n, 16), torch.randn(n, 16)) for n in (24, 2400))
    assert few > 5 * many


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("a", "b"), [((5, 4), (5, 3)), ((5, 4), (5,)), ((1, 4), (5, 4)), ((5, 4), (0, 4))])
def test_sets_that_cannot_be_compared_are_refused(a, b):
    with pytest.raises(ConfigError, match=r"^features = \(.*(same number of columns|at least 2 rows)"):
        frechet_distance(torch.randn(a), torch.randn(b))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad):
    spoilt = torch.randn(64, 64)
    spoilt[3, 5] = bad
    with pytest.raises(ConfigError, match=r"^features .*finite"):
        frechet_distance(spoilt, torch.randn(64, 64))


# --- pixel control


@pytest.fixture
def images():
    return torch.randn(40, 1, 4, 4) * torch.linspace(0.2, 3, 16).reshape(1, 1, 4, 4) + 0.5


@pytest.mark.parametrize("components", [1, 2, 5, 16])  # a few, found by themselves, and many
def test_pixel_axes_are_those_of_the_singular_values(images, components):
    flat = images.flatten(1).double() - images.flatten(1).double().mean(dim=0)
    ours = PixelPca(images, components).features(images)
    theirs = flat @ torch.linalg.svd(flat, full_matrices=False).Vh[:components].T
    torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=0, atol=1e-8)  # the sign of an axis is free


def test_other_images_are_seen_from_the_same_mean_and_all_axes_keep_distances(images):
    project, others = PixelPca(images, components=16), torch.randn(7, 1, 4, 4)
    found = project.features(others)
    assert found.shape == (7, 16)
    lengths = (others - images.mean(dim=0)).flatten(1).double().norm(dim=1)
    torch.testing.assert_close(found.norm(dim=1), lengths, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("components", [0, -1, 17])
def test_more_axes_than_pixels_or_none_are_refused(images, components):
    with pytest.raises(ConfigError, match=f"^components = {components} .*1 to 16"):
        PixelPca(images, components=components)


def test_class_agreement_is_the_share_of_wanted_classes():
    assert class_agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 4])) == 0.75
