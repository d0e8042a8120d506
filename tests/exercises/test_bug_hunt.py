"""The sabotaged losses: each runs like the right one, and each is wrong in value or gradient."""

import pytest
import torch
from every_loss import value_and_gradients

from labkit import build_model, dispersive_loss
from labkit.exercises.bug_hunt import SABOTAGES
from labkit.exercises.checking import numbers
from labkit.runtime import seeded

each_one = pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)


@each_one
def test_sabotage_differs_in_value_or_gradient(sabotage):
    z = numbers(12, 4, 8, scale=0.5, shift=0.3)
    plus = lambda z: sabotage.loss(z, tau=0.5) + 0 * z.sum()  # noqa: E731  one of them has no gradient at all
    wrong, right = (value_and_gradients(loss, z) for loss in (plus, dispersive_loss))
    assert any(not torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(wrong, right, strict=True))


@each_one
def test_sabotage_trains_without_an_error(sabotage):
    with seeded(0):
        model = build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    x1, x0, t, y = numbers(8, 1, 8, 8), numbers(8, 1, 8, 8, seed=1), torch.linspace(0.1, 0.9, 8), torch.arange(8)
    losses = []
    for _ in range(4):
        x_t = torch.lerp(x0, x1, t[:, None, None, None])
        output, features = model(x_t, t, y, taps=[1])
        loss = (output - (x1 - x0)).square().mean() + 0.5 * sabotage.loss(features[1], tau=0.5)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@each_one
def test_diagnosis_is_one_of_several_and_explained(sabotage):
    assert sabotage.diagnosis in sabotage.options and len(set(sabotage.options)) >= 3
    assert sabotage.clue and len(SABOTAGES) == 8
    places = [each.options.index(each.diagnosis) for each in SABOTAGES.values()]
    assert len(set(places)) > 2, "the right one always stands at the same place"


LAWS = {
    "B": (lambda f, z: f(0.1 * z.repeat(1, 1, 5)), lambda f, z: f(0.1 * z)),
    "C": (lambda f, z: f(z + 9 * torch.tensor([1.0, -1, 1, -1])[:, None] * z[:, :1]), None),
    "E": (lambda f, z: f(torch.ones_like(z)), lambda f, z: torch.tensor(0.0)),
    "F": (lambda f, z: f(2 * z, tau=2.0), lambda f, z: f(z)),
    "G": (lambda f, z: f(50 * z), lambda f, z: -torch.tensor(float(len(z))).log()),
}


@pytest.mark.parametrize("letter", LAWS)
def test_the_clue_is_true(letter):
    """What the clue says breaks: it holds for the library's loss, and not here."""
    z, (law, expected) = numbers(12, 4, 8, scale=0.5), LAWS[letter]
    wrong = SABOTAGES[letter].loss
    if expected is None:  # blind to what the library sees
        torch.testing.assert_close(law(wrong, z), wrong(z), atol=1e-4, rtol=1e-4)
        assert abs(law(dispersive_loss, z) - dispersive_loss(z)) > 0.1
        return
    torch.testing.assert_close(law(dispersive_loss, z), expected(dispersive_loss, z), atol=1e-5, rtol=1e-4)
    assert abs(law(wrong, z) - expected(wrong, z)) > 1e-2


def test_the_rest_of_the_clues_are_true():
    z = numbers(12, 4, 8, scale=0.5)
    assert not SABOTAGES["A"].loss(z.requires_grad_()).requires_grad
    torch.testing.assert_close(SABOTAGES["D"].loss(z), -dispersive_loss(z))
    torch.testing.assert_close(SABOTAGES["H"].loss(7 * z), SABOTAGES["H"].loss(z))
    far = (3 * z).detach().requires_grad_()
    assert not torch.autograd.grad(SABOTAGES["G"].loss(far), far)[0].any(), "on its plateau the gradient is 0"
