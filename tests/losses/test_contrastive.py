"""The contrastive losses beside their formulas: the two terms, the weight α, a known loss, and bad input."""

import math

import pytest
import torch
from every_loss import VARIANTS, two_views, value_and_gradients

from labkit.checks import ConfigError
from labkit.losses import Contrastive, contrastive_loss, dispersive_loss

every_variant = pytest.mark.parametrize("variant", VARIANTS)
both_forms = pytest.mark.parametrize("form", ["additive", "original"])


@every_variant
def test_the_repulsion_is_the_dispersive_loss_and_the_loss_the_weighted_sum(variant):
    a, b = two_views(6, 9, dtype=torch.float32)
    alignment, repulsion = Contrastive(variant=variant).parts(a, b)
    assert torch.equal(repulsion, dispersive_loss(a, variant))
    torch.testing.assert_close(contrastive_loss(a, b, variant, alignment_weight=2.5), 2.5 * alignment + repulsion)


@every_variant
def test_without_alignment_it_is_the_dispersive_loss_to_the_bit(variant):
    a, b = two_views(6, 9, dtype=torch.float32)
    without = value_and_gradients(lambda a, b: contrastive_loss(a, b, variant, alignment_weight=0.0), a, b)
    dispersive = value_and_gradients(lambda a, b: dispersive_loss(a, variant), a, b)
    assert all(torch.equal(*pair) for pair in zip(without, dispersive, strict=True))


@pytest.mark.parametrize("variant", ["infonce_l2", "infonce_cosine", "covariance"])
def test_the_positive_pair_is_the_same_in_both_forms(variant):
    a, b = two_views(6, 9)
    additive, original = (Contrastive(variant=variant, form=form).parts(a, b) for form in ("additive", "original"))
    torch.testing.assert_close(original.alignment, additive.alignment)
    assert torch.equal(contrastive_loss(a, b, variant, form="original"), original.alignment + original.repulsion)


@both_forms
def test_a_feature_that_is_constant_in_a_view_is_not_aligned(form):
    a, b = two_views(7, 4)
    b[:, 1] = 0.1
    others = [0, 2, 3]
    additive, asked = (Contrastive(variant="covariance", form=each) for each in ("additive", form))
    expected = (1 + 3 * additive.parts(a[:, others], b[:, others]).alignment) / 4
    torch.testing.assert_close(asked.parts(a, b).alignment, expected)
    _, of_a, of_b = value_and_gradients(lambda a, b: contrastive_loss(a, b, "covariance", form=form), a, b)
    assert (of_b[:, 1] == 0).all() and of_a.isfinite().all() and of_b.isfinite().all()


def test_the_original_infonce_is_ntxent_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    a, b = two_views(8, 10)
    tau = 0.3
    for variant, distance, temperature in [
        ("infonce_cosine", distances.CosineSimilarity(), tau),
        ("infonce_l2", distances.LpDistance(normalize_embeddings=False, p=2, power=2), tau * 10),  # it has no 1/P
    ]:
        ntxent = losses.NTXentLoss(temperature, distance=distance)
        theirs = ntxent(a, torch.arange(8), ref_emb=b, ref_labels=torch.arange(8))
        torch.testing.assert_close(contrastive_loss(a, b, variant, tau=tau, form="original"), theirs)


@pytest.mark.parametrize(
    ("name", "value", "others", "remedy"),
    [
        *(("alignment_weight", value, {}, "finite number of at least 0") for value in (-0.1, math.nan, math.inf, "1")),
        ("form", "barlow", {}, "choose one of additive, original"),
        ("variant", "barlow", {}, "choose one of infonce_l2, "),
        ("form", "original", {"variant": "hinge"}, "additive form only"),
        ("alignment_weight", 0.5, {"form": "original"}, "α = 1 only"),
        ("include_self", False, {"form": "original"}, "leave it out"),
        ("margin", 1.0, {}, "it takes tau and include_self"),
        ("tau", 0.0, {"form": "original"}, "a finite number above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, value, others, remedy, unchecked):
    with pytest.raises(ConfigError, match=f"^{name} = {value!r} cannot be used: .*{remedy}"):
        contrastive_loss(torch.randn(4, 3), torch.randn(4, 3), **{name: value}, **others)


@both_forms
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.randn(4, 6), torch.randn(5, 6), ValueError, r"z has \(4, 6\) and z_positive \(5, 6\): give two views"),
        (torch.randn(4, 6), torch.randn(4, 5), ValueError, r"z has \(4, 6\) and z_positive \(4, 5\)"),
        (torch.randn(1, 6), torch.randn(1, 6), ValueError, "z has a batch of 1; give at least 2"),
        (torch.randn(4, 3), torch.ones(4, 3, dtype=torch.int64), TypeError, "z_positive has dtype torch.int64"),
    ],
    ids=["batches", "features", "one sample", "integers"],
)
def test_views_that_do_not_belong_together_are_refused(form, a, b, error, message, unchecked):
    with pytest.raises(error, match=f"^{message}"):
        contrastive_loss(a, b, form=form)


def test_views_may_come_in_different_shapes_with_as_many_features():
    a, b = two_views(5, 12)
    assert torch.equal(contrastive_loss(a.reshape(5, 3, 4), b.reshape(5, 2, 6)), contrastive_loss(a, b))
