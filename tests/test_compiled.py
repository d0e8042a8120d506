"""The objective under torch.compile: the loss and the gradient of every weight are those of the plain one."""

import subprocess
import sys

import pytest

COMPILED = """
import sys

import torch
from labkit import Config, Dispersive, build_model
from labkit.objective import Objective
from labkit.types import Batch, Draws

torch.manual_seed(0)
family = sys.argv[1]
network = build_model(f"{family}-Nano/4", 8, 1, 10, learn_sigma=family == "DiT")
with torch.no_grad():
    for parameter in network.parameters():  # at the start of training most gradients are 0
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
objective = Objective(network, Config(model=f"{family}-Nano/4", batch_size=6, dispersive=Dispersive(0.5)))
trained = {name: p for name, p in network.named_parameters() if p.requires_grad}

def step(run, draws):
    losses = run(batch, draws)
    gradients = torch.autograd.grad(losses.total, trained.values())
    return {**losses.terms, "total": losses.total.detach(), "errors": losses.errors, "times": losses.times,
            **dict(zip(trained, gradients, strict=True))}

def draws(number):
    ends = torch.rand(6) if family == "MeanFlow" else None
    return Draws(torch.randn(6, 1, 8, 8), torch.rand(6, 2), torch.tensor(number), ends=ends)

batch = Batch(2 * torch.rand(6, 1, 8, 8) - 1, torch.arange(6))
compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
counters = torch._dynamo.utils.counters["stats"]
for number in range(2):
    drawn = draws(number)
    plain = step(objective, drawn)  # first, since dynamo cannot look into the schedule's cached properties as they fill
    found = step(compiled, drawn)
    assert found.keys() == plain.keys()
    assert all(plain[name].any() for name in plain)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
assert counters["unique_graphs"] == 1, counters  # other numbers do not compile anew
print(" ".join(objective.process.base.__qualname__.split(".")[:1]), len(trained), "weights agree")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "process", "more"), [
    ("SiT", "FlowProcess", 0), ("DiT", "DiffusionProcess", 0), ("MeanFlow", "MeanFlowProcess", 4),
])  # fmt: skip
def test_compiled_in_one_graph_it_trains_the_same(family, process, more):
    """In a process of its own: torch.compile does not see through the checker of shapes that the tests have on."""
    done = subprocess.run([sys.executable, "-c", COMPILED, family], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = 2 + 4 + 1 + 4 * 10 + 4 + more  # patches, times, labels, four blocks, last layer; spans of MeanFlow
    assert done.stdout.split() == [process, str(weights), "weights", "agree"]
