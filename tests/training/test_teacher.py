"""The teacher's training: a generator that depends on its seed alone, learns to distinguish digits, reads no label."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from labkit import runtime
from labkit.checks import ConfigError
from labkit.datasets import Images, digits
from labkit.models import teachers
from labkit.training import teacher as training
from labkit.training.teacher import TeacherTraining, digits_probe, distorted, probes, save


def weights(seed=0, steps=3):
    run = TeacherTraining(seed, steps)
    losses = [report.loss for report in run]
    return run.teacher.state_dict(), losses


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_iterating_reports_each_step_and_can_stop_and_go_on():
    run = TeacherTraining(steps=4)
    assert len(run) == 4
    first = next(iter(run))
    assert (first.step, len(run)) == (1, 3)
    rest = list(run)
    assert [report.step for report in rest] == [2, 3, 4]
    assert 0 < first.seconds < rest[-1].seconds == run.seconds
    assert first.loss == pytest.approx(np.log(64), abs=1)  # a guess among the batch
    assert list(run) == []
    assert same(run.teacher.state_dict(), weights(steps=4)[0])


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, losses = weights()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    again, same_losses = weights()
    assert same(one, again) and losses == same_losses
    assert not same(one, weights(seed=1)[0])


def test_no_label_and_no_held_out_digit_is_read(monkeypatch):
    expected, real, splits = weights()[0], digits("train"), []
    for y in (real.y[torch.randperm(len(real))], torch.full_like(real.y, -(2**62))):

        def other_labels(split, y=y):
            splits.append(split)
            return Images(real.x, y, real.num_classes)

        monkeypatch.setattr(training, "digits", other_labels)
        assert same(weights()[0], expected)
    assert set(splits) == {"train"}


def test_all_digits_have_their_turn():
    run = TeacherTraining(steps=2)
    epoch = torch.cat([run._pick() for _ in range(1297 // 64)])
    assert len(epoch.unique()) == len(epoch) == 1280
    assert len(torch.cat([epoch, *(run._pick() for _ in range(60))]).unique()) == 1297


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"steps": 1}, {"steps": True}])
def test_impossible_settings_are_refused_by_name(wrong, unchecked):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} = "):
        TeacherTraining(**wrong)


def test_the_teacher_so_far_is_a_frozen_copy_with_its_cost():
    run = TeacherTraining(steps=3)
    reports = iter(run)
    next(reports)
    early = run.teacher
    state = {name: tensor.clone() for name, tensor in early.state_dict().items()}
    parameters = sum(p.numel() for p in run.encoder.parameters())  # without the head, which is discarded
    assert (early.cost.images, early.cost.parameters, early.cost.seconds) == (1297, parameters, run.seconds)
    next(reports)
    assert same(early.state_dict(), state)
    assert not same(run.teacher.state_dict(), state)
    assert run.teacher.cost.seconds > early.cost.seconds
    assert not any(p.requires_grad for p in early.parameters())
    assert run.encoder.embed.weight.requires_grad


def test_views_of_a_digit_differ_and_stay_near_it():
    x, draw = digits("train").x[:300], torch.Generator().manual_seed(0)
    first, second = distorted(x, draw), distorted(x, draw)
    assert first.shape == x.shape
    assert not torch.equal(first, second)
    a, b = first.flatten(1), second.flatten(1)
    away = torch.cdist(a, b)
    assert away.diagonal().median() < away.median()  # nearer to its other view than to other digits
    assert (away.argmin(dim=1) == torch.arange(300)).float().mean() > 10 / 300  # far above chance, far from trivial
    assert torch.equal(distorted(x, torch.Generator().manual_seed(1)), distorted(x, torch.Generator().manual_seed(1)))


def test_the_probe_of_labels_is_perfect_and_of_nothing_is_chance():
    answers = {len(digits(split)): digits(split).y for split in ("train", "held_out")}
    assert digits_probe(lambda x: torch.nn.functional.one_hot(answers[len(x)]).float()) == 1
    assert digits_probe(lambda x: torch.zeros(len(x), 3)) < 0.15


def test_the_cosine_by_place_depends_on_no_image():
    tokens = torch.randn(16, 8)
    assert training.cosine_by_place(lambda x: tokens.expand(len(x), 16, 8)) == pytest.approx(1)
    assert training.cosine_by_place(lambda x: torch.randn(len(x), 16, 8)) < 0.1
    shipped = teachers.DigitsTeacher.load()
    z = shipped(digits("train").x).double().numpy()
    z = z / np.linalg.norm(z, axis=2, keepdims=True)
    constant = z.mean(axis=0)
    oracle = np.linalg.norm(constant, axis=1).mean()  # u · ū/‖ū‖ averages to ‖ū‖
    assert training.cosine_by_place(shipped) == pytest.approx(oracle, abs=1e-5)


def test_saving_and_loading_keeps_every_bit_and_the_cost(tmp_path, monkeypatch):
    run = TeacherTraining(steps=2)
    list(run)
    path = save(run.teacher, tmp_path, seed=7, measured={"teacher": {"pooled": 0.5}})
    monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path)
    again = teachers.DigitsTeacher.load()
    assert again.cost == run.teacher.cost
    assert same(again.state_dict(), run.teacher.state_dict())
    assert len(load_file(path)) == len(again.state_dict())
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    assert (record["seed"], record["probes"]) == (7, {"teacher": {"pooled": 0.5}})


@pytest.mark.slow
def test_training_again_gives_the_shipped_teacher_again():
    run = TeacherTraining(seed=0)
    for _ in run:
        pass
    shipped = probes(teachers.DigitsTeacher.load())
    assert probes(run.teacher) == pytest.approx(shipped, abs=0.015)
    assert run.seconds < 120
