"""The sabotaged losses: each trains like the right one, each is wrong in value or gradient, and each clue is true."""

import pytest
import torch
from every_loss import value_and_gradients

from labkit import build_model, dispersive_loss
from labkit.exercises.bug_hunt import SABOTAGES
from labkit.exercises.checking import numbers
from labkit.runtime import seeded

Z = numbers(12, 4, 8, scale=0.5)


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_sabotage_is_wrong_and_trains_without_an_error(sabotage):
    plus = lambda z: sabotage.loss(z, tau=0.5) + 0 * z.sum()  # noqa: E731  one of them has no gradient at all
    wrong, right = (value_and_gradients(loss, Z + 0.3) for loss in (plus, dispersive_loss))
    assert any(not torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(wrong, right, strict=True))
    with seeded(0):
        model = build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    x1, x0, t, y = numbers(8, 1, 8, 8), numbers(8, 1, 8, 8, seed=1), torch.linspace(0.1, 0.9, 8), torch.arange(8)
    losses = []
    for _ in range(3):
        output, features = model(torch.lerp(x0, x1, t[:, None, None, None]), t, y, taps=[1])
        loss = (output - (x1 - x0)).square().mean() + 0.5 * sabotage.loss(features[1], tau=0.5)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_each_diagnosis_is_one_of_several_and_explained():
    for each in SABOTAGES.values():
        assert each.diagnosis in each.options and len(set(each.options)) >= 3 and each.clue
    places = [each.options.index(each.diagnosis) for each in SABOTAGES.values()]
    assert len(places) == 8 and len(set(places)) > 2, "the right one always stands at the same place"


# What should stay equal, and does for the library's loss: one side, the other.
LAWS = {
    "B": (lambda f: f(0.1 * Z.repeat(1, 1, 5)), lambda f: f(0.1 * Z)),
    "E": (lambda f: f(torch.ones_like(Z)), lambda f: torch.tensor(0.0)),
    "F": (lambda f: f(2 * Z, tau=2.0), lambda f: f(Z)),
    "G": (lambda f: f(50 * Z), lambda f: -torch.tensor(float(len(Z))).log()),
}


@pytest.mark.parametrize("letter", LAWS)
def test_the_law_of_the_clue_fails(letter):
    wrong, (law, expected) = SABOTAGES[letter].loss, LAWS[letter]
    torch.testing.assert_close(law(dispersive_loss), expected(dispersive_loss), atol=1e-5, rtol=1e-4)
    assert abs(law(wrong) - expected(wrong)) > 1e-2


def test_the_rest_of_the_clues_are_true():
    loss = {letter: each.loss for letter, each in SABOTAGES.items()}
    assert not loss["A"](Z.clone().requires_grad_()).requires_grad
    cancel = Z + 9 * torch.tensor([1.0, -1, 1, -1])[:, None] * Z[:, :1]
    torch.testing.assert_close(loss["C"](cancel), loss["C"](Z), atol=1e-4, rtol=1e-4)
    assert abs(dispersive_loss(cancel) - dispersive_loss(Z)) > 0.1
    torch.testing.assert_close(loss["D"](Z), -dispersive_loss(Z))
    torch.testing.assert_close(loss["H"](7 * Z), loss["H"](Z))
    far = (3 * Z).requires_grad_()
    assert not torch.autograd.grad(loss["G"](far), far)[0].any(), "on its plateau the gradient is 0"
