"""Every exercise: its solution passes, its mistakes are named, and no right answer is refused for how it is written."""

import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labkit.exercises
from labkit import Trainer, dispersive_loss
from labkit.checks import ConfigError
from labkit.exercises import EXERCISES, check, exercise, mine
from labkit.exercises.checking import numbers
from labkit.exercises.flows import loop_config, trained_weights
from labkit.runtime import one_thread

NAMES = {"adaln_block": "AdaLNBlock"}


def written(name, source):
    """The answer that a reader's source defines."""
    scope = {"torch": torch}
    exec(source, scope)
    return scope[NAMES.get(name, name)]


@pytest.fixture(autouse=True)
def no_answers(monkeypatch):
    monkeypatch.setattr(labkit.exercises, "_PASSED", {})


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_passes_and_is_kept(name):
    answer = written(name, EXERCISES[name].solution)
    assert mine(name) is EXERCISES[name].oracle and mine(name, default=len) is len
    verdict = check(name, answer)
    assert verdict.passed and verdict.key == "right", verdict
    assert mine(name, default=len) is answer


@pytest.mark.parametrize("name", EXERCISES)
def test_each_mistake_is_named_by_a_sentence_of_its_own(name):
    mistakes = EXERCISES[name].mistakes
    assert {m.key: EXERCISES[name].check(m.answer).key for m in mistakes} == {m.key: m.key for m in mistakes}
    assert len({m.sentence for m in mistakes}) == len(mistakes) >= 5


@pytest.mark.parametrize("name", EXERCISES)
def test_stub_is_empty_and_shown_with_what_surrounds_it(name):
    each = EXERCISES[name]
    assert check(name, written(name, each.stub)).key == "empty"
    shown = each._repr_markdown_()
    assert each.stub.strip() in shown and each.why in shown and f"{each.minutes} min" in shown
    assert "<details>" in shown and each.notebook in {"01", "02", "04", "05", "08", "09"}
    assert each.difficulty in (1, 2, 3)


# Mistakes as readers write them: the solution with one change.
SLIPS = [
    ("path_point", "t * x1 + (1 - t) * x0", "(1 - t) * x1 + t * x0", "ends swapped"),
    ("path_point", "return x_t, x1 - x0", "return x_t, x0 - x1", "velocity's sign"),
    ("path_point", "    t = t[:, None, None, None]\n", "", "times on the wrong axis"),
    ("adaln_block", "nn.init.zeros_(self.adaLN_modulation[1].weight)", "pass", "not zero"),
    ("adaln_block", "(1 + scale1)", "scale1", None),
    (
        "adaln_block",
        "shift1, scale1, gate1, shift2, scale2, gate2 =",
        "scale1, shift1, gate1, scale2, shift2, gate2 =",
        "shift and scale swapped",
    ),
    ("adaln_block", "gate1 * self.attn", "self.attn", None),
    ("adaln_block", "self.mlp(self.norm2(x)", "self.mlp(self.norm1(x)", "right"),
    ("train_with_ema", "        optimizer.zero_grad()\n", "", "gradients pile up"),
    ("train_with_ema", "copy.deepcopy(network)", "network", "no copy"),
    ("train_with_ema", "mean.lerp_(weight, 1 - d)", "mean.lerp_(weight, d)", "average swapped"),
    ("train_with_ema", "min(decay, (1 + step) / (10 + step))", "decay", "no warm-up"),
    ("train_with_ema", "loss(step)", "loss(0)", "one batch for ever"),
    ("train_with_ema", "mean.lerp_(weight, 1 - d)", "mean = mean.lerp(weight, 1 - d)", "average never moves"),
    ("train_with_ema", "mean.lerp_(weight, 1 - d)", "mean.mul_(d).add_(weight, alpha=1 - d)", "right"),
    ("euler_step", "(then - now) * ", "", "no step length"),
    ("euler_step", "torch.full((len(x),), now, dtype=x.dtype, device=x.device)", "now", "error"),
    ("heun_step", "h * (first + second) / 2", "h * (first + second)", "sum of slopes"),
    ("heun_step", "velocity(x + h * first, t + h)", "velocity(x + h * first, t)", "second at the same time"),
    ("heun_step", "velocity(x + h * first, t + h)", "velocity(x + first, t + h)", "whole velocity ahead"),
    ("guided_velocity", "without + w *", "with_label + w *", "w counted from 0"),
    ("guided_velocity", "torch.full_like(y, null)", "torch.zeros_like(y)", "label 0 for none"),
    ("score_from_velocity", "-x0 / (1 - t)", "-x0", "minus the noise"),
    ("score_from_velocity", "x - t * v", "x + t * v", "x0 with a wrong sign"),
    ("sde_step", "(2 * w * h) ** 0.5", "(2 * w) ** 0.5 * h", "noise grows with h"),
    ("sde_step", "v + w * score", "v + score", "score without w"),
    ("meanflow_target", "(velocity, one, -one)", "(velocity, one, one)", "span grows"),
    ("meanflow_target", ".detach()", "", "not detached"),
    ("dispersive_loss", "z.flatten(1)", "z.mean(dim=1)", "pooled"),
    ("dispersive_loss", ".mean(dim=-1)", ".sum(dim=-1)", "no P"),
    ("dispersive_loss", "/ tau", "* tau", "tau multiplies"),
    ("dispersive_loss", "torch.exp(-D / tau).mean()", "torch.exp(-D / tau).mean(dim=1)", "shape"),
    (
        "dispersive_loss",
        "torch.log(torch.exp(-D / tau).mean())",
        "torch.log(torch.exp(-D / tau).mean()).item()",
        "no gradient",
    ),
    ("dispersive_loss", "- z[None])", "- z[None].detach())", "one side detached"),
    ("dispersive_loss", "torch.log(torch.exp(-D / tau).mean())", "-torch.log(torch.exp(-D / tau).mean())", "sign"),
    ("dispersive_loss", ".square().mean(dim=-1)", ".norm(dim=-1) / z.shape[1]", "not squared"),
    ("dispersive_loss", "torch.log(torch.exp", "torch.log(1e-3 + torch.exp", "off"),
    ("dispersive_gradient", "-4 /", "-2 /", "factor of two"),
    (
        "dispersive_gradient",
        "torch.exp(-D / tau).sum()",
        "torch.exp(-D / tau).sum(dim=1, keepdim=True)",
        "row-wise weights",
    ),
    ("cosine_loss", "dim=1)", "dim=0)", "normalised over the batch"),
    ("cosine_loss", "z @ z.T", "-z @ z.T", "sign"),
    ("hinge_loss", ".square().mean()", ".mean()", "not squared"),
    ("hinge_loss", "margin - D", "D - margin", "the other side"),
    ("covariance_loss", "correction=0", "correction=1", "B and B − 1"),
    ("covariance_loss", " - C.diagonal().square().sum()", "", "diagonal counted"),
    (
        "covariance_loss",
        "z = (z - z.mean(dim=0)) / z.std(dim=0, correction=0)",
        "z = z - z.mean(dim=0)",
        "not standardised",
    ),
    ("regularized_loss", "prediction.features[block]", "prediction.features[block].detach()", "features detached"),
    ("regularized_loss", "base + lam", "base - lam", "subtracted"),
    ("regularized_loss", "prediction.features[block]", "prediction.features[block].mean(dim=1)", "pooled"),
    (
        "contrastive_loss",
        "alignment_weight * alignment + repulsion",
        "alignment_weight * (alignment + repulsion)",
        "weight on the repulsion",
    ),
    ("contrastive_loss", "(z - z_positive)", "(z - z_positive.detach())", "second view detached"),
    (
        "contrastive_loss",
        "D = (z[:, None] - z[None])",
        "D = (z[:, None] - z_positive[None])",
        "repulsion across the views",
    ),
    ("repa_loss", "target.detach()", "target", "the teacher learns"),
    ("repa_loss", ".sum(dim=-1).mean()", ".mean()", "mean over the width"),
    ("effective_rank", "z - z.mean(dim=0)", "z", "not centred"),
    ("effective_rank", "svdvals(z - z.mean(dim=0))", "svdvals(z - z.mean(dim=0)).square()", "variances"),
    ("linear_cka", "a, b = a - a.mean(dim=0), b - b.mean(dim=0)", "pass", "not centred"),
    ("linear_cka", ".norm() ** 2 /", ".norm() /", "numerator not squared"),
    ("frechet_distance", "2 * root", "root", "no 2"),
    ("frechet_distance", "a.T.cov()", "a.T.cov(correction=0)", "off"),
    ("paired_interval", "scipy.stats.t.ppf(0.975, n - 1)", "1.96", "normal"),
    ("paired_interval", "ours - baseline", "baseline - ours", "sign"),
    ("paired_interval", " / n**0.5", "", "spread of seeds"),
]


@pytest.mark.parametrize("name, old, new, key", SLIPS)
def test_a_slip_in_the_solution_is_named(name, old, new, key):
    solution = EXERCISES[name].solution
    assert old in solution
    verdict = check(name, written(name, solution.replace(old, new)))
    # Where half of a mistake is made, no sentence fits exactly, but nothing passes either.
    assert verdict.key == (key or "off"), verdict


def by_cdist(z, tau):
    z = z.reshape(len(z), -1)
    return (-(torch.cdist(z, z) ** 2) / z.shape[1] / tau).exp().mean().log()


def by_logsumexp(z, tau):
    z = z.flatten(1)
    logits = -(z.unsqueeze(1) - z).pow(2).mean(2) / tau
    return logits.logsumexp((0, 1)) - 2 * torch.tensor(float(len(z))).log()


def by_einsum(z, tau):
    z = z.flatten(1)
    inner = torch.einsum("ip,jp->ij", z, z)
    square = inner.diagonal()
    return torch.log(torch.exp(-(square[:, None] + square - 2 * inner) / z.shape[1] / tau).mean())


def by_loops(z, tau):
    flat = [sample.reshape(-1) for sample in z]
    pairs = [torch.exp(-((a - b) ** 2).mean() / tau) for a in flat for b in flat]
    return torch.log(sum(pairs) / len(pairs))


def by_corrcoef(z):
    C = torch.corrcoef(z.flatten(1).T)
    return (C.square().sum() - len(C)) / (len(C) * (len(C) - 1))


def by_kernels(a, b):
    K, L = ((c := z - z.mean(0)) @ c.T for z in (a, b))
    return float((K * L).sum() / (K.norm() * L.norm()))


def by_numpy(z):
    sigma = np.linalg.svd(z.numpy() - z.numpy().mean(0), compute_uv=False)
    p = sigma[sigma > 1e-6] / sigma.sum()
    return np.exp(-(p * np.log(p)).sum())


def by_tokens(projected, target):
    pairs = zip(projected.flatten(0, 1), target.flatten(0, 1).detach(), strict=True)
    return -torch.stack([torch.cosine_similarity(h, y, dim=0) for h, y in pairs]).mean()


def in_one_pass(network, x, t, y, null, w):
    both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, 0 * y + null]))
    return (1 - w) * both[len(x) :] + w * both[: len(x)]


RIGHT = [
    *[("dispersive_loss", loss) for loss in (by_cdist, by_logsumexp, by_einsum, by_loops)],
    ("dispersive_loss", lambda z, tau: dispersive_loss(z.double(), tau=tau)),
    ("covariance_loss", by_corrcoef),
    ("linear_cka", by_kernels),
    ("effective_rank", by_numpy),
    ("repa_loss", by_tokens),
    ("guided_velocity", in_one_pass),
    ("dispersive_gradient", lambda z, tau: torch.func.grad(lambda z: dispersive_loss(z, tau=tau))(z)),
    ("path_point", lambda x1, x0, t: [torch.lerp(x0, x1, t.view(-1, 1, 1, 1)), x1 - x0]),
    ("score_from_velocity", lambda v, x, t: ((s := t.view(-1, 1, 1, 1)) * v - x) / (1 - s)),
]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_a_right_answer_written_differently_passes(name, answer):
    assert check(name, answer).passed, check(name, answer)


def test_trained_weights_are_the_trainer_s_bit_for_bit():
    train = written("train_with_ema", EXERCISES["train_with_ema"].solution)
    with one_thread():
        trainer = Trainer(loop_config(0))
        for _ in trainer:
            pass
        again = Trainer(loop_config(0))
        loss = lambda step: again.objective.module(*again.stream.at(step * again.config.batch_size)).total  # noqa: E731
        average = train(again.network, again.optimizer.optimizer, loss, again.config.steps, again.config.ema_decay)
    assert torch.equal(trained_weights(again.network), trained_weights(trainer.network))
    assert torch.equal(trained_weights(average), trained_weights(trainer.ema.network))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scale=st.floats(-2, 2).filter(lambda s: abs(s - 1) > 1e-3),
    shift=st.floats(-1, 1),
    power=st.sampled_from([0.5, 1, 2]),
)
def test_nothing_near_the_right_answer_passes(scale, shift, power):
    """A distorted loss never passes, and whatever the check says of it, it says in a sentence."""
    right = written("dispersive_loss", EXERCISES["dispersive_loss"].solution)
    verdict = check("dispersive_loss", lambda z, tau: scale * -((-right(z, tau)) ** power) + shift * (tau - 0.7))
    assert not verdict.passed and verdict.text.rstrip()[-1] in ".?"


def in_place(z, tau):
    z -= z.mean()
    return z.sum()


def in_place_quietly(z, tau):
    z.data.mul_(2)
    return (z * tau).sum()


def rooted(z, tau):
    z = z.flatten(1)
    distance = (z[:, None] - z).square().mean(-1).sqrt()
    return (-(distance**2) / tau).exp().mean().log()


def raises(z, tau):
    return z @ z


MISUSE = {
    "in place": in_place,
    "error": raises,
    "empty": lambda z, tau: None,
    "nan": lambda z, tau: (z.sum() * 0 - 1).log(),
    "nan gradient": rooted,
    "not callable": torch.tensor(1.0),
    "type": lambda z, tau: {"loss": z.sum()},
}


@pytest.mark.parametrize("key, answer", MISUSE.items(), ids=MISUSE)
def test_what_stops_a_function_gets_a_sentence(key, answer):
    verdict = check("dispersive_loss", answer)
    assert verdict.key == key and not verdict.passed, verdict
    assert mine("dispersive_loss", default=len) is len


def test_a_quiet_change_of_the_inputs_is_noticed():
    assert check("dispersive_loss", in_place_quietly).key == "in place"


class Counting:
    """An endless loop that counts its turns."""

    turns = 0

    def __call__(self, z, tau):
        while True:
            self.turns += 1

    def goes_on(self):
        time.sleep(0.1)
        before = self.turns
        time.sleep(0.1)
        return self.turns != before


def test_an_endless_loop_ends():
    loop = Counting()
    verdict = replace(EXERCISES["dispersive_loss"], seconds=0.2).check(loop)
    assert verdict.key == "endless" and "0.2 seconds" in verdict.text and loop.turns
    assert not loop.goes_on()


def test_an_interrupted_check_leaves_no_loop_behind():
    loop = Counting()
    threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        check("dispersive_loss", loop)
    assert loop.turns and not loop.goes_on()


def test_an_error_names_the_reader_s_line():
    text = check("dispersive_loss", raises).text
    assert "RuntimeError" in text and "z @ z" in text


def test_where_nothing_known_fits_a_broken_law_is_named():
    assert "identical features" in check("dispersive_loss", lambda z, tau: (z * z).mean() + 1).text
    slow = lambda v, x, now, then: x + 0.9 * (then - now) * v(x, torch.full((len(x),), now, dtype=x.dtype))  # noqa: E731
    assert "order 2" in check("heun_step", slow).text


def test_a_block_is_given_as_a_class():
    assert check("adaln_block", EXERCISES["adaln_block"].oracle(12, 3)).key == "not callable"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_notebook_do_not_reach_the_check(mode):
    with mode():
        verdict = replace(EXERCISES["dispersive_loss"], seconds=9.0).check(by_einsum)
    assert verdict.passed, verdict


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ConfigError, match="dispersive_loss"):
        exercise("dispersive")


def test_inputs_are_the_same_at_every_call():
    assert torch.equal(numbers(3, 2), numbers(3, 2)) and not torch.equal(numbers(3, 2), numbers(3, 2, seed=1))
