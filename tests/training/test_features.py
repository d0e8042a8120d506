"""Features on demand: the same inputs for everyone, kept by what made them, and made again when that changes."""

import pytest
import torch
from tiny import tiny

from labkit import Run, Trainer, paths
from labkit.checks import ConfigError
from labkit.config import Config
from labkit.datasets import digits
from labkit.training import CheckpointError, Look, RunError, extract_features
from labkit.training import features as module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    for _ in Trainer(tiny(steps=4, save_every=2, keep_last=5), path):
        pass
    return path


@pytest.fixture
def run(folder, tmp_path):
    return Run.open(folder, shelf=tmp_path / "shelf")


def kept(run):
    return sorted(run.shelf.glob("*.safetensors")) if run.shelf.exists() else []


def test_features_are_those_of_a_plain_forward_pass(run):
    look = Look(t=0.3, count=7, seed=5)
    seen = run.features(look, step=2)
    held_out = digits("held_out")
    torch.testing.assert_close(seen.x1, held_out.x[:7])
    noise = (seen.x_t - 0.3 * seen.x1) / 0.7
    torch.testing.assert_close(seen.x_t, paths.linear(seen.x1, noise, torch.full((7,), 0.3)).x_t)
    network = run.model(step=2)
    direct = network(seen.x_t, torch.full((7,), 0.3), held_out.y[:7], taps=(0, 3)).features
    assert set(seen.features) == {0, 1, 2, 3}
    for block in (0, 3):
        torch.testing.assert_close(seen.features[block], direct[block])


def test_an_image_has_the_same_noise_and_time_whatever_the_count(run):
    few, many = (run.features(Look(t=None, count=n)) for n in (5, 400))
    for a, b in ((few.x_t, many.x_t), (few.t, many.t), (few.y, many.y)):
        assert torch.equal(a, b[:5])
    torch.testing.assert_close(few.features[1], many.features[1][:5])  # 400 images take two passes
    assert 0 <= many.t.min() < 0.05 and 0.95 < many.t.max() < 1


def test_noise_is_standard_and_follows_from_the_seed():
    noise = {seed: module.inputs(Look(t=0.0, seed=seed), Config()).x_t for seed in (0, 1)}
    assert abs(noise[0].mean()) < 0.02 and abs(noise[0].std() - 1) < 0.02
    assert not torch.equal(noise[0], noise[1])
    assert abs(torch.corrcoef(torch.stack([z.flatten() for z in noise.values()]))[0, 1]) < 0.02


def test_without_labels_the_null_class_is_told(run):
    seen = run.features(Look(count=6, labelled=False))
    null = torch.full((6,), 10)
    direct = run.model()(seen.x_t, seen.t, null, taps=(1,)).features[1]
    torch.testing.assert_close(seen.features[1], direct)
    assert torch.equal(seen.y, digits("held_out").y[:6])


def test_the_second_time_nothing_is_computed(run, monkeypatch):
    first = run.features(Look(count=6))
    assert len(kept(run)) == 4
    monkeypatch.setattr(module, "extract_features", None)
    monkeypatch.setattr("labkit.training.runs.extract_features", None)
    again = run.features(Look(count=6))
    assert all(torch.equal(first.features[b], again.features[b]) for b in first.features)


def test_only_missing_blocks_are_computed(run):
    run.features(Look(count=6), blocks=[2])
    before = {file: file.stat().st_mtime_ns for file in kept(run)}
    assert len(before) == 1
    assert set(run.features(Look(count=6), blocks=[3, 2]).features) == {2, 3}
    assert len(kept(run)) == 2
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())


@pytest.mark.parametrize(
    "other",
    [
        dict(look=Look(t=0.4, count=6)),
        dict(look=Look(t=None, count=6)),
        dict(look=Look(count=5)),
        dict(look=Look(count=6, seed=1)),
        dict(look=Look(count=6, split="train")),
        dict(look=Look(count=6, labelled=False)),
        dict(look=Look(count=6), step=2),
        dict(look=Look(count=6), step=0),
        dict(look=Look(count=6), weights="model"),
    ],
)
def test_whatever_makes_a_difference_is_part_of_the_key(run, other):
    usual = run.features(Look(count=6))
    found = run.features(**other)
    assert len(kept(run)) == 8
    assert any(not torch.equal(found.features[b], usual.features[b][: len(found.y)]) for b in usual.features) or len(
        found.y
    ) != len(usual.y)


def test_a_checkpoint_trained_anew_is_looked_at_anew(tmp_path):
    found = []
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}"
        for _ in Trainer(tiny(steps=2, seed=seed), folder):
            pass
        run = Run.open(folder, shelf=tmp_path / "shelf")  # one shelf, as when a folder is emptied and used again
        found.append(run.features(Look(count=4)).features[3])
        torch.testing.assert_close(found[-1], extract_features(run.model(), Look(count=4), run.config).features[3])
    assert not torch.equal(*found)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_file_that_was_cut_is_made_again(run, left):
    first = run.features(Look(count=4))
    for file in kept(run):
        file.write_bytes(file.read_bytes()[:left])
    again = run.features(Look(count=4))
    assert all(torch.equal(first.features[b], again.features[b]) for b in first.features)
    assert all(file.stat().st_size > 200 for file in kept(run))


def test_a_folder_that_cannot_be_written_costs_a_warning(folder, tmp_path):
    (tmp_path / "shelf").write_text("a file where the folder should be")
    run = Run.open(folder, shelf=tmp_path / "shelf")
    with pytest.warns(UserWarning, match="Features are not kept"):
        found = run.features(Look(count=4), blocks=[0])
    assert found.features[0].shape == (4, 4, 64)


def test_features_at_step_0_agree_in_all_blocks(run):
    """adaLN-Zero: every block returns its input until its gate opens."""
    seen = run.features(Look(count=4), step=0)
    assert all(torch.equal(seen.features[0], z) for z in seen.features.values())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(blocks=[4]), r"blocks = \(4,\) .*4 blocks, numbered 0 to 3"),
        (dict(blocks=[-1]), r"blocks = \(-1,\)"),
        (dict(blocks=[]), r"blocks = \(\)"),
        (dict(step=3), r"step = 3 .*steps are 0, 2, 4"),
        (dict(weights="best"), "weights = 'best'"),
    ],
)
def test_bad_requests_are_refused_by_name(run, asked, message):
    with pytest.raises(ConfigError, match=message):
        run.features(Look(count=2), **asked)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("t", 1.1),
        ("t", -0.1),
        ("t", float("nan")),
        ("t", "half"),
        ("count", 0),
        ("count", 2.5),
        ("split", "test"),
        ("seed", -1),
    ],
)
def test_a_look_that_cannot_be_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        Look(**{field: value})


def test_an_export_opens_but_does_not_train(run, tmp_path):
    export = run.export(tmp_path / "export", [4])
    assert export.steps == [0, 4]
    assert export.checkpoints[4].stat().st_size < 0.2 * run.checkpoints[4].stat().st_size
    for mine, theirs in zip(export.model().parameters(), run.model().parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
        assert mine.dtype == torch.float32
    assert export.metrics().equals(run.metrics())
    assert len(export.sample(2, steps=2).x) == 2
    with pytest.raises(RunError, match=r"is an export: training cannot go on from it"):
        export.trainer(steps=9)
    with pytest.raises(ConfigError, match=r"weights = 'model' .*averaged weights alone"):
        export.model("model")
    with pytest.raises(ConfigError, match=r"it exists already"):
        run.export(tmp_path / "export")


def test_a_cut_checkpoint_says_so(folder, tmp_path):
    copy = Run.open(folder).export(tmp_path / "copy", [2])
    file = copy.checkpoints[2]
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="cut or not a checkpoint"):
        copy.features(Look(count=2), step=2)
