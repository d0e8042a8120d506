"""The reader's functions in trainings and panels: a right one gives the library's numbers, and another one is used."""

from contextlib import closing

import pytest
import torch

from labkit import ConfigError, Run, recipes
from labkit.datasets import digits
from labkit.exercises import exercise
from labkit.metrics import effective_rank, three_digits
from labkit.training import Trainer
from labkit.training.trainer import build_network
from labkit.widgets import LiveTraining, Sampler, explorer_panel, sampler_panel, training_panel
from labkit.widgets.explorer import Explorer


def solution(name):
    """The folded solution of an exercise, as a reader would run it."""
    space = {"torch": torch}
    exec(exercise(name).solution, space)
    return space[name]


def tiny(**changes):
    return recipes.digits(**{"model": "SiT-Nano/4", "steps": 3, "batch_size": 8, "log_every": 1} | changes)


def test_a_live_training_runs_my_loss():
    mine = solution("dispersive_loss")
    names = ("the library's loss", "my loss", "twice my loss")
    state = LiveTraining(
        lambda state: dict.fromkeys(names, tiny(lam=0.5, tau=state.tau)),
        own=lambda state: {
            "my loss": {"dispersive": lambda z: mine(z, state.tau)},
            "twice my loss": {"dispersive": lambda z: 2 * mine(z, state.tau)},
        },
        tau=0.7,
        steps=3,
    )
    panel = training_panel("mine", state, ["tau"], "Whose loss?")
    state.wait()
    for metric in ("dispersive", "dispersive.gradient_ratio", "velocity"):
        library, own, twice = (state.logged(name, metric).values for name in names)
        assert own == pytest.approx(library, rel=1e-4)
        exact = 1e-4 if metric == "dispersive.gradient_ratio" else 1e-5  # the base's gradient is a small difference
        assert twice[0] == pytest.approx((1 if metric == "velocity" else 2) * library[0], rel=exact)
    panel.close()


def test_a_one_step_model_learns_my_target():
    config, target = tiny(model="MeanFlow-Nano/4"), solution("meanflow_target")
    owns = ({}, {"target": target}, {"target": lambda *args: 0 * target(*args)})
    library, mine, zero = ([report.terms["total"].item() for report in Trainer(config, own=own)] for own in owns)
    assert mine == pytest.approx(library, rel=1e-4) != pytest.approx(zero, rel=1e-2)


def test_my_functions_belong_to_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"own.*leave run_dir away"):
        Trainer(tiny(), tmp_path / "run", own={"dispersive": torch.mean})
    assert not (tmp_path / "run").exists()


def test_the_sampler_takes_my_steps_and_my_guidance(monkeypatch):
    monkeypatch.setattr(Sampler, "STEPS", (1, 2, 8))
    network, config = build_network(tiny(), *digits().dimensions).eval(), tiny()
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():  # gates, closed at the start
            torch.nn.init.normal_(parameter, std=0.05)
    step = {"heun": solution("heun_step"), "euler": lambda velocity, x, now, then: x}
    own = sampler_panel(network, config, "own", step, solution("guided_velocity"), (1.0, 3.0))
    library = sampler_panel(network, config, "library", guidance=(1.0, 3.0))
    assert [note.text for note in own.figure.layout.annotations[:2]] == ["Euler, your step", "Heun, your step"]
    for guidance in (1.0, 3.0):
        own.controls["guidance"].value = library.controls["guidance"].value = guidance
        torch.testing.assert_close(own.state.exact, library.state.exact)
        assert own.figure.data[3].y == pytest.approx(library.figure.data[3].y, rel=1e-3, abs=1e-5)
        assert f"guidance {guidance:g}" in own.sentence.value
        assert torch.equal(own.state.paths["euler", 2][-1], own.state.paths["euler", 2][0]), "my Euler stands still"
    assert not torch.allclose(own.state._paths[1.0]["heun", 8], own.state._paths[3.0]["heun", 8])
    own.close(), library.close()


def test_the_explorer_measures_by_my_function(tmp_path):
    with closing(iter(Trainer(tiny(save_every=1, steps=2), tmp_path / "run"))) as training:
        list(training)
    runs, mine = {"run": Run.open(tmp_path / "run")}, solution("effective_rank")
    for function in (mine, lambda z: 100 + mine(z)):
        state = Explorer(runs, 20, (0.5,), effective_rank=function)
        panel = explorer_panel(state)
        z = state._features("run", state.place)
        rank = effective_rank(z) + (0 if function is mine else 100)
        assert state.clouds[state.place]["run"].numbers["effective_rank"] == pytest.approx(rank, rel=1e-4)
        assert f"<td>{three_digits(rank)}</td>" in panel.widget.children[-2].value
        panel.close()
