"""Every exercise: its solution passes, its mistakes are named, and no right answer is refused for how it is written."""

import linecache
import math
import re
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

import labkit.exercises
from labkit import Trainer
from labkit.checks import ConfigError
from labkit.exercises import EXERCISES, check, exercise, mine
from labkit.exercises.flows import loop_config, trained_weights
from labkit.runtime import one_thread

each_exercise = pytest.mark.parametrize("name", EXERCISES)


def written(name, source):
    """The answer that a reader's source defines, kept for ``inspect`` as a notebook keeps its cells."""
    scope, file = {"torch": torch}, f"<cell of {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), scope)
    return scope[EXERCISES[name].answer.__name__]


@pytest.fixture(autouse=True)
def no_answers(monkeypatch):
    monkeypatch.setattr(labkit.exercises, "_PASSED", {})


@each_exercise
def test_solution_passes_and_is_kept(name):
    answer = written(name, EXERCISES[name].solution)
    assert mine(name) is EXERCISES[name].oracle
    assert check(name, answer).passed, check(name, answer)
    assert mine(name) is answer


@each_exercise
def test_each_mistake_is_named_by_a_sentence_of_its_own(name):
    each = EXERCISES[name]
    sentences = list(each.mistakes.values())
    assert [each.check(each.wrong(edit)).text for edit in each.mistakes] == sentences
    assert len(set(sentences)) == len(sentences) >= 5
    assert all(sentence.strip() == sentence and sentence[-1] in ".?" for sentence in sentences)


@each_exercise
def test_a_forgotten_return_is_told_from_an_empty_stub(name):
    verdict = check(name, written(name, re.sub(r"\n +return .*", "", EXERCISES[name].solution)))
    assert not verdict.passed and "Is there a `return`" in verdict.text


@pytest.mark.parametrize(
    "name, one, two",
    [
        ("dispersive_loss", ".mean(dim=-1) → .sum(dim=-1)", "/ tau → * tau"),
        ("dispersive_gradient", "-4 → -2", "tau).sum() → tau).sum(dim=1, keepdim=True)"),
        ("heun_step", "/ 2 →", "x + h * first → x"),
        ("linear_cka", ".norm() ** 2 → .norm()", "return → return 1 -"),
    ],
)
def test_two_mistakes_at_once_are_both_named(name, one, two):
    each = EXERCISES[name]
    text = each.check(each.wrong(one, two)).text
    assert "two things" in text and each.mistakes[one] in text and each.mistakes[two] in text, text


def by_cdist(z, tau=0.5):
    z = z.reshape(len(z), -1)
    return (-(torch.cdist(z, z) ** 2) / z.shape[1] / tau).exp().mean().log()


def by_einsum(z, tau=0.5):
    z = z.flatten(1).double()
    inner = torch.einsum("ip,jp->ij", z, z)
    square = inner.diagonal()
    return (-(square[:, None] + square - 2 * inner) / z.shape[1] / tau).logsumexp((0, 1)) - 2 * math.log(len(z))


def by_pdist(z, tau=0.5):
    B, P = z.flatten(1).shape
    return torch.log((2 * torch.exp(-F.pdist(z.flatten(1)).square() / P / tau).sum() + B) / B**2)


def by_laplacian(z, tau):
    w = torch.softmax((-(torch.cdist(z, z) ** 2) / z.shape[1] / tau).flatten(), 0).view(len(z), -1)
    return -4 / (tau * z.shape[1]) * (torch.diag(w.sum(1)) - w) @ z


def by_cosines(z, tau):
    z = z.flatten(1)
    return (F.cosine_similarity(z[:, None], z, dim=-1) / tau).exp().mean().log()


def by_triangle(z):
    C = torch.corrcoef(z.flatten(1).double().T)
    return torch.triu(C, 1).square().sum() * 2 / (len(C) * (len(C) - 1))


def by_kernels(a, b):
    K, L = ((c := z - z.mean(0, keepdim=True)) @ c.T for z in (a, b))
    return float((K * L).sum() / (K.norm() * L.norm()))


def by_numpy(z):
    sigma = np.linalg.svd(z.numpy() - z.numpy().mean(0), compute_uv=False)
    p = sigma[sigma > 1e-6] / sigma.sum()
    return np.exp(-(p * np.log(p)).sum())


def by_nuclear_norm(a, b):
    (n, u, x), (m, v, y) = ((len(z), z.mean(0), z - z.mean(0)) for z in (a, b))
    root = torch.linalg.matrix_norm(x @ y.T, "nuc") / math.sqrt((n - 1) * (m - 1))
    return (((u - v) ** 2).sum() + x.square().sum() / (n - 1) + y.square().sum() / (m - 1) - 2 * root).item()


def by_scipy(ours, baseline):
    low, high = scipy.stats.ttest_rel(ours.numpy(), baseline.numpy()).confidence_interval()
    return torch.tensor([(ours - baseline).mean(), low, high])


def by_two_steps(velocity, x, now, then):
    y = x + (then - now) * velocity(x, now * torch.ones(len(x)))
    return (x + y + (then - now) * velocity(y, x.new_full((len(x),), then))) / 2


def in_one_pass(network, x, t, y, null, w):
    both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, 0 * y + null]))
    return (1 - w) * both[len(x) :] + w * both[: len(x)]


def sample_by_sample(v, x, t):
    return torch.stack([(s * w - p) / (1 - s) for w, p, s in zip(v, x, t, strict=True)])


def by_closure(u, x, t, span, velocity):
    end = t + span
    slope = torch.autograd.functional.jvp(lambda x, t: u(x, t, end - t), (x, t), (velocity, torch.ones_like(t)))[1]
    return (velocity + torch.einsum("b,b...->b...", span, slope)).detach()


def point(x1, x0, t):
    return torch.lerp(x0, x1, t[:, None, None, None])


RIGHT = [
    *[("dispersive_loss", loss) for loss in (by_cdist, by_einsum, by_pdist)],
    ("dispersive_gradient", by_laplacian),
    ("cosine_loss", by_cosines),
    ("hinge_loss", lambda z, e: (e - torch.cdist(*[z.flatten(1)] * 2) ** 2 / z[0].numel()).clamp(min=0).pow(2).mean()),
    ("covariance_loss", by_triangle),
    ("contrastive_loss", lambda z, p, tau, a: a * F.mse_loss(z, p) / tau + by_einsum(z, tau)),
    ("repa_loss", lambda h, y: F.mse_loss(F.normalize(h, dim=2), F.normalize(y.detach(), dim=2)) * h.shape[2] / 2 - 1),
    ("linear_cka", by_kernels),
    ("effective_rank", by_numpy),
    ("frechet_distance", by_nuclear_norm),
    ("paired_interval", by_scipy),
    ("path_point", lambda x1, x0, t: [point(x1, x0, t), (x1 - x0).double()]),
    ("heun_step", by_two_steps),
    ("guided_velocity", in_one_pass),
    ("score_from_velocity", sample_by_sample),
    ("meanflow_target", by_closure),
]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_a_right_answer_written_differently_passes(name, answer):
    assert check(name, answer).passed, check(name, answer)


def rooted(z, tau):
    distance = (z.flatten(1)[:, None] - z.flatten(1)).square().mean(-1).sqrt()
    return (-(distance**2) / tau).exp().mean().log()


# What stops a function or makes it wrong in no known way → words of the sentence that it gets.
WRONG = [
    ("dispersive_loss", torch.tensor(1.0), "Please give the function itself"),
    ("dispersive_loss", lambda z, tau: None, "returns nothing, although"),
    ("dispersive_loss", lambda z, tau: {"loss": z.sum()}, "returns a dict"),
    ("dispersive_loss", lambda z, tau: z @ z, "RuntimeError: .* The line: .*z @ z"),
    ("dispersive_loss", lambda z: z.sum(), "calls it as `dispersive_loss.z, tau=0.5.`"),
    ("dispersive_loss", lambda z, tau: z.sub_(z.mean()).sum(), "changes its inputs"),
    ("dispersive_loss", lambda z, tau: (z.data.mul_(2) * tau).sum(), "changes its inputs"),
    ("dispersive_loss", lambda z, tau: (z.sum() * 0 - 1).log(), "NaN or infinite"),
    ("dispersive_loss", rooted, "its gradient is NaN"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, tau).item(), "no gradient reaches the input"),
    ("dispersive_loss", lambda z, tau: by_cdist(z.detach(), tau) + 0 * z.sum(), "respect to `z` is 0"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, tau).to("meta"), "lies on meta"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, tau) + 0j, "complex"),
    ("dispersive_loss", lambda z, tau: (by_cdist(z, tau), z), "2 values, but the docstring promises one"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, tau)[None], r"\(1,\), but .* one number.*keepdim"),
    ("dispersive_loss", lambda z, tau: by_cdist(z + torch.randn_like(z), tau), "other numbers each time"),
    ("dispersive_loss", lambda z, tau: 2 * by_cdist(z, tau), "exactly twice"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, tau) ** 2, "is the square of"),
    ("dispersive_loss", lambda z, tau: by_cdist(z, 0.4), "Where does `tau` come in"),
    ("dispersive_loss", lambda z, tau: by_cdist(z.bfloat16().float(), tau), "close, but further off than rounding"),
    ("dispersive_loss", lambda z, tau: (by_cdist(z, tau).exp() + 0.01).log(), "identical features .* instead of 0"),
    ("dispersive_loss", lambda z, tau: by_cdist(z.mean(1), tau) + 2 * math.log(len(z)), "two things.* log B².* tokens"),
    ("dispersive_gradient", lambda z, tau: by_laplacian(z, tau).T, "axes in another order"),
    ("dispersive_gradient", lambda z, tau: by_laplacian(z, tau) / len(z), r"12 times too small for .* shape \(12"),
    ("dispersive_gradient", lambda z, tau: by_laplacian(z, tau).flip(0), "reverse order"),
    ("contrastive_loss", lambda z, p, tau, a: a * F.mse_loss(z.detach(), p) / tau + by_cdist(z, tau), "to `z` is not"),
    ("path_point", point, "1 value, but .* 2 values: x_t, v"),
    ("path_point", lambda x1, x0, t: (x1 - x0, point(x1, x0, t)), "wrong order. The docstring promises x_t, v"),
    ("path_point", lambda x1, x0, t: (point(x1, x0, t), x1 - x0 + 1), "v is off by the same number everywhere, 1"),
    (
        "path_point",
        lambda x1, x0, t: (point(x1, x0, t), point(2 * (x1 - x0), 0 * x0, t)),
        "differs from sample to sample",
    ),
    ("euler_step", lambda v, x, now, then: x + 0.3 * (then - now) * v(x, x.new_full(x.shape[:1], now)), "`x` is 0.3"),
    ("euler_step", lambda v, x, now, then: x + v(x, now), "one time for each sample, .* but got a float"),
    ("heun_step", lambda v, x, now, then: by_two_steps(v, x, now, then) + 0.1 * (then - now) * x, "order 2"),
    ("effective_rank", lambda z: int(by_numpy(z)), "Only whole numbers"),
    ("linear_cka", lambda a, b: 1 / by_kernels(a, b), "is one over"),
    ("paired_interval", lambda a, b: by_scipy(a, b)[[0, 2, 1]], "wrong order. .* the lower end"),
    ("adaln_block", EXERCISES["adaln_block"].oracle(12, 3), "Please give the class itself"),
    ("train_with_ema", lambda *arguments: {}, "a network with averaged weights, not dict"),
    ("train_with_ema", lambda network, *arguments: network, "must be a copy"),
    ("regularized_loss", lambda model, x, t, y, *a: model(x, t, y).features[a[1]], r"KeyError: 1.*`taps=\[block\]`"),
    ("regularized_loss", lambda *a: EXERCISES["regularized_loss"].oracle(*a).item(), "in each block is 0"),
]


@pytest.mark.parametrize("name, answer, words", WRONG)
def test_any_other_answer_gets_a_sentence_that_helps(name, answer, words):
    verdict = check(name, answer)
    assert not verdict.passed and verdict.text[-1] in ".?"
    assert re.search(words, verdict.text), verdict


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
    assert "after 0.2 seconds" in verdict.text and loop.turns
    assert not loop.goes_on()


def test_an_interrupted_check_leaves_no_loop_behind():
    loop = Counting()
    threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        check("dispersive_loss", loop)
    assert loop.turns and not loop.goes_on()


def test_modes_of_the_notebook_do_not_reach_the_check():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert replace(EXERCISES["dispersive_loss"], seconds=9.0).check(by_einsum).passed


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ConfigError, match="dispersive_loss"):
        exercise("dispersive")
