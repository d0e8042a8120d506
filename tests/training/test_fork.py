"""A fork begins with the exact state of its parent: nothing but the settings that were changed tells the two apart."""

import re

import pytest
from tiny import everything, leftovers, outcome, tiny, trained

from labkit import ConfigError, Run, Trainer
from labkit.cli import main
from labkit.config import Optimizer
from labkit.losses import burst
from labkit.training import RunError, runs

SETTINGS = {"tiny": tiny, "everything": everything}


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Runs of 12 steps with checkpoints at 5, 10 and 12, made when they are first needed."""
    kept = {}

    def parent(name: str = "tiny") -> Run:
        if name not in kept:
            kept[name] = Run.open(trained(SETTINGS[name](keep_last=9), tmp_path_factory.mktemp("parents") / name))
        return kept[name]

    return parent


@pytest.mark.parametrize(("name", "at"), [("tiny", 0), ("tiny", 5), ("tiny", 7), ("everything", 5), ("everything", 11)])
def test_an_unchanged_fork_equals_its_parent(parents, tmp_path, name, at):
    """Weights, averages, moments and table: at a checkpoint, between two of them, and at the start."""
    fork = parents(name).fork(at, tmp_path / "fork")
    assert fork.steps == sorted({0, at})
    list(fork.trainer())
    assert outcome(fork.path) == outcome(parents(name).path)
    assert fork.parent.step == at
    assert fork.parent.changes == ()
    assert leftovers(tmp_path) == []


def test_a_fork_that_leaves_the_loss_is_a_burst(parents, tmp_path):
    """The oracle is one run whose λ follows a schedule. A second branch, with another λ, is no such run."""
    burst_of_7 = outcome(trained(tiny(schedule=burst(7)), tmp_path / "burst"))
    for lam, same in ((0.0, True), (0.1, False)):
        fork = parents().fork(7, tmp_path / f"fork{lam}", lam=lam)
        list(fork.trainer())
        (_, weights, table), (_, expected, logged) = outcome(fork.path), burst_of_7
        assert (weights == expected) is same
        assert [row for row in table if row[0] <= 7] == [row for row in logged if row[0] <= 7]
        assert fork.parent.changes == (f"dispersive.lam: 0.5 → {lam}",)
        assert parents().path.name in fork.parent.describe() and fork.parent.run == str(parents().path)


def test_a_fork_of_a_fork(parents, tmp_path):
    """λ = 0.5, from step 4 on 1, from step 9 on 0.5 again; the first fork stops on the way and is resumed."""
    first = parents().fork(4, tmp_path / "first", lam=1.0)
    next(report for report in first.trainer() if report.step == 6)
    list(first.trainer())
    second = first.fork(9, tmp_path / "second", lam=0.5)
    list(second.trainer())
    knots = ((3, 1.0), (4, 2.0), (8, 2.0), (9, 1.0))
    straight = outcome(trained(tiny(schedule=knots), tmp_path / "straight"))
    assert outcome(second.path)[1] == straight[1]
    assert second.parent.run == str(first.path)


def test_what_is_learnt_with_can_change(parents, tmp_path):
    fork = parents().fork(5, tmp_path / "fork", optimizer=Optimizer(lr=1e-4), variant="infonce_cosine", steps=20)
    trainer = fork.trainer()
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert [report.step for report in trainer] == list(range(6, 21))


@pytest.mark.parametrize(
    ("at", "changes", "message"),
    [
        (13, {}, "at = 13 cannot be used: take a whole number from 0 to 12, the last step"),
        (-1, {}, "at = -1"),
        (5, {"steps": 5}, "steps = 5 cannot be used: the fork begins after 5 steps"),
        (5, {"seed": 1}, "seed = '0 → 1' cannot be used: it cannot change on the way"),
        (5, {"model": "SiT-Nano/2"}, "model = "),
        (5, {"repa": everything().repa}, "repa."),
    ],
)
def test_refused_and_nothing_written(parents, tmp_path, at, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parents().fork(at, tmp_path / "fork", **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_and_an_export_are_refused(parents, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="it exists already"):
        parents().fork(5, tmp_path / "there")
    export = parents().export(tmp_path / "export")
    with pytest.raises(RunError, match="is an export"):
        export.fork(5, tmp_path / "fork")


def test_a_fork_that_was_cut_short_leaves_nothing_in_the_way(parents, tmp_path, monkeypatch):
    """Killed while it trains on to its step: the same request works afterwards, and gives the same bits."""
    with monkeypatch.context() as patch:
        patch.setattr(runs.ckpt, "digest", lambda file: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            parents().fork(7, tmp_path / "fork")
    assert not (tmp_path / "fork").exists()
    list(parents().fork(7, tmp_path / "fork").trainer())
    assert outcome(tmp_path / "fork") == outcome(parents().path)
    assert [file.name for file in tmp_path.iterdir()] == ["fork"]


def test_on_the_command_line(parents, tmp_path, capsys):
    """Flags start from the run's own settings; the fork is trained to its end."""
    out = tmp_path / "fork"
    words = ["fork", str(parents().path), "--at", "7", "--dispersive.lam", "0", "--out", str(out)]
    assert main(words) == 0
    assert "forked from" in capsys.readouterr().out
    assert Run.open(out).config == tiny(keep_last=9, lam=0.0)
    assert list(Run.open(out).checkpoints)[-1] == 12
    assert Trainer(tiny(keep_last=9, lam=0.0), out).step == 12
    assert main([*words[:4], "--seed", "3", "--out", str(tmp_path / "other")]) == 2
    assert "seed = '0 → 3'" in capsys.readouterr().err
