"""Features on demand: the same inputs for every run, cached by all that they depend on; and exports of runs."""

import pytest
import torch
from tiny import tiny, trained

from labkit import Run, paths
from labkit.checks import ConfigError
from labkit.config import Config
from labkit.datasets import digits
from labkit.training import Look, RunError, extract_features
from labkit.training.features import inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tiny(steps=4, save_every=2, keep_last=5), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(folder, tmp_path):
    return Run.open(folder, shelf=tmp_path / "shelf")


def cached(run):
    return sorted(run.shelf.glob("*.safetensors")) if run.shelf.exists() else []


@pytest.mark.parametrize("labelled", [True, False])
def test_features_are_those_of_a_plain_forward_pass(run, labelled):
    """Without labels, of the null class."""
    features = run.features(Look(t=0.3, count=7, seed=5, labelled=labelled), step=2)
    held_out = digits("held_out")
    assert torch.equal(features.x1, held_out.x[:7]) and torch.equal(features.y, held_out.y[:7])
    noise = (features.x_t - 0.3 * features.x1) / 0.7
    torch.testing.assert_close(features.x_t, paths.linear(features.x1, noise, torch.full((7,), 0.3)).x_t)
    labels = held_out.y[:7] if labelled else torch.full((7,), 10)
    direct = run.model(step=2)(features.x_t, torch.full((7,), 0.3), labels, taps=(0, 3)).features
    assert set(features.features) == {0, 1, 2, 3}
    for block in (0, 3):
        torch.testing.assert_close(features.features[block], direct[block])


def test_an_image_has_the_same_noise_and_time_whatever_the_count(run):
    few, many = (run.features(Look(t=None, count=n)) for n in (5, 400))
    for a, b in ((few.x_t, many.x_t), (few.t, many.t), (few.y, many.y)):
        assert torch.equal(a, b[:5])
    torch.testing.assert_close(few.features[1], many.features[1][:5])  # 400 images take two passes
    assert 0 <= many.t.min() < 0.05 and 0.95 < many.t.max() < 1


def test_noise_is_standard_and_follows_from_the_seed():
    noise = {seed: inputs(Look(t=0.0, seed=seed), Config()).x_t for seed in (0, 1)}
    assert abs(noise[0].mean()) < 0.02 and abs(noise[0].std() - 1) < 0.02
    assert not torch.equal(noise[0], noise[1])
    assert abs(torch.corrcoef(torch.stack([z.flatten() for z in noise.values()]))[0, 1]) < 0.02


def test_only_missing_blocks_are_computed(run, monkeypatch):
    first = run.features(Look(count=6), blocks=[2])
    before = {file: file.stat().st_mtime_ns for file in cached(run)}
    assert len(before) == 1
    more = run.features(Look(count=6), blocks=[3, 2])
    assert set(more.features) == {2, 3} and len(cached(run)) == 2
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())
    monkeypatch.setattr("labkit.training.runs.extract_features", None)
    again = run.features(Look(count=6), blocks=[2, 3])
    assert torch.equal(again.features[2], first.features[2]) and torch.equal(again.features[3], more.features[3])


@pytest.mark.parametrize(
    "other",
    [
        *(dict(look=Look(**({"count": 6} | changes))) for changes in ({"t": 0.4}, {"t": None}, {"count": 5})),
        *(dict(look=Look(count=6, **changes)) for changes in ({"seed": 1}, {"split": "train"}, {"labelled": False})),
        *(dict(look=Look(count=6), **changes) for changes in ({"step": 2}, {"step": 0}, {"weights": "model"})),
    ],
    ids=str,
)
def test_whatever_makes_a_difference_is_part_of_the_key(run, other):
    usual, other_z = run.features(Look(count=6), [3]).features[3], run.features(blocks=[3], **other).features[3]
    assert len(cached(run)) == 2
    assert not torch.equal(other_z, usual)


def test_a_checkpoint_trained_anew_has_new_features(tmp_path):
    both = []
    for seed in (0, 1):
        folder = trained(tiny(steps=2, seed=seed), tmp_path / f"seed{seed}")
        run = Run.open(folder, shelf=tmp_path / "shelf")  # one cache, as when a folder is emptied and used again
        both.append(run.features(Look(count=4)).features[3])
        torch.testing.assert_close(both[-1], extract_features(run.model(), Look(count=4), run.config).features[3])
    assert not torch.equal(*both)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_file_that_was_cut_is_computed_again(run, left):
    first = run.features(Look(count=4), [0])
    (file,) = cached(run)
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    assert torch.equal(first.features[0], run.features(Look(count=4), [0]).features[0])
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_a_warning(folder, tmp_path):
    (tmp_path / "shelf").write_text("a file where the folder should be")
    run = Run.open(folder, shelf=tmp_path / "shelf")
    with pytest.warns(UserWarning, match="Features are not kept"):
        features = run.features(Look(count=4), blocks=[0])
    assert features.features[0].shape == (4, 4, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(blocks=[4]), r"blocks = \(4,\) .*4 blocks, numbered 0 to 3"),
        (dict(blocks=[-1]), r"blocks = \(-1,\)"),
        (dict(blocks=[]), r"blocks = \(\)"),
        (dict(step=3), r"step = 3 .*steps are 0, 2, 4"),
        (dict(weights="best"), "weights = 'best'"),
    ],
)
def test_bad_requests_are_refused_by_name(run, settings, message, unchecked):
    with pytest.raises(ConfigError, match=message):
        run.features(Look(count=2), **settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [*(("t", value) for value in (1.1, -0.1, float("nan"), "half")), ("count", 0), ("split", "test"), ("seed", -1)],
)
def test_a_bad_look_is_refused(field, value, unchecked):
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
    with pytest.raises(RunError, match=r"is an export .*; go on in the folder that it was exported from"):
        export.trainer(steps=9)
    with pytest.raises(ConfigError, match=r"weights = 'model' .*averaged weights alone"):
        export.model("model")
    with pytest.raises(ConfigError, match=r"it exists already"):
        run.export(tmp_path / "export")
    with pytest.raises(ConfigError, match=r"^steps = \[4, 0\] .*checkpoints of steps"):
        run.export(tmp_path / "initial", [4, 0])  # the initial network has no checkpoint
    assert not (tmp_path / "initial").exists()
