"""The objective under torch.compile: the loss and the gradient of every weight are those of the plain one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import WHOLE

COMPILED = """
import sys

import torch
from labkit import Config
from small import gradients, some_batch, some_draws, whole_objective

config, half, tolerance = Config.from_json(sys.argv[1]), sys.argv[2] == "bfloat16", float(sys.argv[3])
torch.manual_seed(0)
objective, batch = whole_objective(config), some_batch()

def step(run, draws):
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = run(batch, draws)
    return {"total": losses.total.detach(), "errors": losses.errors, "times": losses.times, **losses.terms,
            **gradients(losses.total, objective)}

compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
for number in range(2):
    drawn = some_draws(number)
    found, plain = step(compiled, drawn), step(objective, drawn)
    assert found.keys() == plain.keys()
    for name in plain:
        off, size = (found[name] - plain[name]).norm().item(), plain[name].norm().item()
        assert 0 < size and off <= tolerance * size, f"step {number}, {name} of norm {size} is off by {off}"
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
assert graphs == 1, graphs  # other numbers do not compile anew
print(type(objective.process).__name__, *objective.config.regularizers, sum(name in plain for name, _ in
      objective.named_parameters()))
"""
WEIGHTS = 2 + 4 + 1 + 4 * 10 + 4  # patches, times, labels, four blocks, last layer


@pytest.mark.slow
@pytest.mark.parametrize(("name", "told"), [
    ("SiT", ("FlowProcess", "dispersive", WEIGHTS)),
    ("DiT", ("DiffusionProcess", "dispersive", WEIGHTS)),
    ("MeanFlow", ("MeanFlowProcess", "dispersive", WEIGHTS + 4)),  # the embedder of spans
    ("MeanFlow guided", ("MeanFlowProcess", "dispersive", WEIGHTS + 4)),
    ("contrastive independent", ("FlowProcess", "contrastive", WEIGHTS)),
    ("contrastive restricted", ("FlowProcess", "contrastive", WEIGHTS)),
    ("repa", ("FlowProcess", "repa", WEIGHTS + 6)),  # the projector
])  # fmt: skip
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-6)])
def test_compiled_in_one_graph_it_trains_the_same(name, told, precision, tolerance):
    """In a process of its own: torch.compile does not see through the checker of shapes that the tests have on."""
    script = [sys.executable, "-c", COMPILED, WHOLE[name].to_json(), precision, str(tolerance)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(script, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(word) for word in told]
