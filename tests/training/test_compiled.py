"""Compiled code computes what the plain code does: losses, tapped models, objectives, whole runs.

In one process without the checker of shapes that the tests have on, which torch.compile does not see through.
"""

import traceback
from collections.abc import Callable
from functools import partial

import pytest
import torch
from every_loss import VARIANTS
from forked import elsewhere
from small import WHOLE, gradients, some_batch, some_draws, whole_objective
from tiny import tiny
from torch import nn

from labkit import Trainer
from labkit.config import Engine
from labkit.losses import contrastive_loss, dispersive_loss, warm_up
from labkit.models.taps import TapError, tap
from labkit.training import engine, trainer

compiled = partial(torch.compile, backend="aot_eager", fullgraph=True)
BLOCKS = 2  # of Nano's four: tracing takes a second for each
WEIGHTS = 2 + 4 + 1 + BLOCKS * 10 + 4  # patches, times, labels, blocks, last layer
REACHED = {  # weights that get a gradient
    "SiT": WEIGHTS,
    "DiT": WEIGHTS,
    "contrastive independent": WEIGHTS,
    "contrastive restricted": WEIGHTS,
    "MeanFlow": WEIGHTS + 4,
    "MeanFlow guided": WEIGHTS + 4,  # the embedder of spans
    "repa": WEIGHTS + 6,  # the projector
}


def an_objective(name: str, precision: str, backend: str = "aot_eager") -> None:
    """Loss, terms, errors by time and the gradient of every weight; other numbers do not compile anew.

    The backend "eager" runs the graph that was traced as it is: half of the time, but for torch's own derivatives.
    """
    objective, batch = whole_objective(WHOLE[name]), some_batch()
    objective.network.blocks = objective.network.blocks[:BLOCKS]

    def step(run, draws):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            losses = run(batch, draws)
        return {
            "total": losses.total.detach(),
            "errors": losses.errors,
            "times": losses.times,
            **losses.terms,
            **gradients(losses.total, objective),
        }

    run = compiled(objective, backend=backend)
    for number in range(2):
        draws = some_draws(number)
        ours, theirs = step(run, draws), step(objective, draws)
        assert ours.keys() == theirs.keys()
        for part in theirs:
            off, size = (ours[part] - theirs[part]).norm().item(), theirs[part].norm().item()
            tolerance = 1e-5 if precision == "float32" else 2**-6
            assert size > 0 and off <= tolerance * size, f"step {number}, {part} of norm {size} is off by {off}"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert sum(part in theirs for part, _ in objective.named_parameters()) == REACHED[name]


def the_losses(variant: str) -> None:
    views = torch.randn(2, 5, 7, requires_grad=True)

    def both(views):
        original = 0 if variant == "hinge" else contrastive_loss(*views, variant, form="original")
        return torch.stack([dispersive_loss(views[0], variant), contrastive_loss(*views, variant) + original])

    run = compiled(both)
    torch.testing.assert_close(run(views), both(views))
    ours, theirs = (torch.autograd.grad(loss(views).sum(), views)[0] for loss in (run, both))
    torch.testing.assert_close(ours, theirs)


def a_tapped_model() -> None:
    """It works if it was tapped before; else, and where features carry no gradient, an error says so."""
    network = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 2))
    x, tapped = torch.randn(6, 4), tap(network, "1")
    run = compiled(network)

    def step(run):
        network.zero_grad()
        (run(x).square().mean() + 0.5 * dispersive_loss(tapped.features)).backward()
        with torch.no_grad():
            return [tapped.features.clone(), *(p.grad for p in network.parameters())]

    for _ in range(2):
        for ours, theirs in zip(step(run), step(network), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.optim.SGD(network.parameters(), lr=1.0).step()
    with torch.no_grad():
        run(x)
    with pytest.raises(TapError, match="'1' has features without a gradient"):
        _ = tapped.features
    tapped.remove()
    run(x)
    with pytest.raises(TapError, match="'1' is no longer tapped"):
        _ = tapped.features
    late = tap(network, "1")
    run(x)
    with pytest.raises(TapError, match="compiled before the tap was set"):
        _ = late.features


def a_run(count: int, backend: str = "aot_eager") -> None:
    """Also the gradients' angles, for which the graph is walked twice. One graph, whole, serves every step."""
    trainer.compile_in_place = partial(engine.compile_in_place, backend=backend)
    config = tiny(steps=20, chunk=4, schedule=warm_up(10), log_every=1)
    ours, theirs = (
        [report.values() for report in Trainer(config.replace(engine=Engine(accumulate=count, compile=on)))]
        for on in (True, False)
    )
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 1 and not counted["graph_break"]
    for step, (a, b) in enumerate(zip(ours[:4], theirs[:4], strict=True)):
        assert a.keys() == b.keys(), (a, b)
        for name in a:  # at the first step gates are closed: a weight that gets no pull is not counted
            far = abs(a[name] - b[name]) > 1e-4 * (1 + abs(b[name]))
            assert not far or (step == 0 and "gradient" in name), (step, name, a[name], b[name])


CHECKS = {
    **{f"{name}, float32": partial(an_objective, name, "float32") for name in WHOLE},
    **{f"{name}, bfloat16": partial(an_objective, name, "bfloat16") for name in ("SiT", "MeanFlow guided")},
    **{variant: partial(the_losses, variant) for variant in VARIANTS},
    "tapped": a_tapped_model,
    **{f"run of {count} micro-batches": partial(a_run, count) for count in (1, 2)},
}
QUICK = {
    **{name: CHECKS[name] for name in ("covariance", "tapped")},
    "run of 2 micro-batches, traced": partial(a_run, 2, "eager"),
    "SiT, traced": partial(an_objective, "SiT", "float32", "eager"),
    "contrastive restricted, traced": partial(an_objective, "contrastive restricted", "float32", "eager"),
}


def every_failure(checks: dict[str, Callable[[], None]]) -> dict[str, str]:
    """Of each check, its traceback, empty if it passed."""
    failures = {}
    for name, check in checks.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        try:
            check()
            failures[name] = ""
        except BaseException:  # also pytest's own
            failures[name] = traceback.format_exc()
    return failures


@pytest.mark.parametrize("checks", [QUICK, pytest.param(CHECKS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_compiled_is_plain(tmp_path, checks):
    failures = elsewhere(every_failure, checks, folder=tmp_path)
    assert failures.keys() == checks.keys() and not any(failures.values()), "\n".join(failures.values())
