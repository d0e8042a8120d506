"""Models trained as one program against the same models trained one after another: weights, averages, moments, logs."""

from dataclasses import replace

import pytest
import torch

from labkit import Run, Trainer, recipes
from labkit.checks import ConfigError
from labkit.config import Engine
from labkit.experiments.batched import groups, train_batched
from labkit.losses import Contrastive, Repa, warm_up
from labkit.training import checkpoint
from labkit.training.folder import RunError
from labkit.training.trainer import NonFiniteLoss

TINY = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=6, save_every=3, log_every=2, keep_last=9)
DIALS = [dict(seed=0, lam=None), dict(seed=0, lam=0.5), dict(seed=1, lam=0.5), dict(seed=2, lam=2.0)]


def tensors(folder, step):
    return checkpoint.read(Run.open(folder).checkpoints[step]).tensors


def apart(ours, theirs, part):
    """‖ours − theirs‖ / ‖theirs‖ over all tensors of a part."""
    keys = [key for key in theirs if key.startswith(part)]
    gaps = [(ours[key].double() - theirs[key].double()).square().sum() for key in keys]
    sizes = [theirs[key].double().square().sum() for key in keys]
    assert len(keys) > 20
    return float((sum(gaps) / sum(sizes)).sqrt())


def rarely(**changes):
    return pytest.param(changes, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.gpu
def test_compiled_it_is_the_same_but_for_rounding(tmp_path):
    for way in (False, True):
        config = TINY.replace(engine=Engine(compile=way))
        runs = {tmp_path / str(way) / f"run{i}": config.replace(**dials) for i, dials in enumerate(DIALS)}
        list(train_batched(runs))
    for i in range(len(DIALS)):
        ours, theirs = (tensors(tmp_path / str(way) / f"run{i}", 6) for way in (True, False))
        assert apart(ours, theirs, "optimizer.exp_avg.") < 4e-4 and apart(ours, theirs, "model.") < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        rarely(variant="infonce_cosine", tau=0.3),
        dict(variant="covariance", chunk=4, schedule=warm_up(4)),
        rarely(variant="hinge", blocks="all"),
        rarely(model="DiT-Nano/4"),
        rarely(model="MeanFlow-Nano/4"),
        rarely(model="SiT-Nano/2", repa=Repa(0.5, hidden=16)),
        rarely(contrastive=Contrastive(0.3, alignment_weight=0.5)),
    ],
    ids=str,
)
def test_equal_to_separate_runs(tmp_path, changes):
    configs = {f"run{i}": TINY.replace(**changes, **dials) for i, dials in enumerate(DIALS)}
    assert list(train_batched({tmp_path / "together" / name: config for name, config in configs.items()})) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    for name, config in configs.items():
        list(Trainer(config, tmp_path / "alone" / name))
        for step in (3, 6):
            ours, theirs = (tensors(tmp_path / way / name, step) for way in ("together", "alone"))
            assert ours.keys() == theirs.keys()
            # A λ that were wrong by 1 % would move the moments by 0.1 to 0.4 %. AdamW divides gradients by their own
            # size, so that rounding alone moves single weights by some of a step: 0.03 % of all, more on some machines.
            assert apart(ours, theirs, "optimizer.exp_avg.") < 4e-4, (name, step)
            assert apart(ours, theirs, "model.") < 1e-3 and apart(ours, theirs, "ema.") < 1e-3, (name, step)
        logs = [Run.open(tmp_path / way / name).metrics() for way in ("together", "alone")]
        last = [log[log["step"] == 6].set_index("name")["value"] for log in logs]
        terms = [term for term in last[0].index if term in last[1].index]
        assert {"total", *(["dispersive"] if config.dispersive.lam is not None else [])} <= set(terms)
        assert last[0][terms].tolist() == pytest.approx(last[1][terms].tolist(), rel=1e-3)


def test_without_regularizer_it_is_equal_to_single_precision(tmp_path):
    """What the regularizer's Gram matrix loses to rounding is not there: only sums in another order."""
    configs = {name: TINY.replace(seed=seed) for seed, name in enumerate("ab")}
    list(train_batched({tmp_path / "together" / name: config for name, config in configs.items()}))
    for name, config in configs.items():
        list(Trainer(config, tmp_path / "alone" / name))
        ours, theirs = (tensors(tmp_path / way / name, 6) for way in ("together", "alone"))
        assert all(apart(ours, theirs, part) < 1e-6 for part in ("model.", "ema.", "optimizer."))


def test_left_early_it_saves_and_goes_on_to_the_same_end(tmp_path):
    configs = {name: TINY.replace(seed=seed, lam=0.5) for seed, name in enumerate("ab")}
    steps = train_batched({tmp_path / "cut" / name: config for name, config in configs.items()})
    assert [next(steps), next(steps)] == [1, 2]
    steps.close()
    assert list(Run.open(tmp_path / "cut" / "a").checkpoints) == [2]
    assert list(train_batched({tmp_path / "cut" / name: config for name, config in configs.items()})) == [3, 4, 5, 6]
    list(train_batched({tmp_path / "straight" / name: config for name, config in configs.items()}))
    for name in configs:
        ours, theirs = (tensors(tmp_path / way / name, 6) for way in ("cut", "straight"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_that_was_trained_together_goes_on_alone(tmp_path):
    list(train_batched({tmp_path / "a": TINY, tmp_path / "b": TINY.replace(seed=1)}))
    trainer = Run.open(tmp_path / "a").trainer(steps=8)
    assert len(list(trainer)) == 2 and trainer.step == 8


def test_groups_are_alike_but_for_seed_and_lam(tmp_path):
    runs = {tmp_path / f"{i}": TINY.replace(**dials) for i, dials in enumerate(DIALS)}
    other = {tmp_path / "tau": TINY.replace(lam=0.5, tau=1.0), tmp_path / "batch": TINY.replace(batch_size=4)}
    assert [set(group) for group in groups({**other, **runs})] == [set(runs), *({folder} for folder in other)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (TINY.replace(tau=2.0, lam=1.0), "runs = .* train runs together that differ in seed and λ alone"),
        (None, "engine.clip = 1.0 cannot be used: models that are trained together need None"),
    ],
)
def test_what_cannot_share_a_program(tmp_path, second, message):
    first = TINY if second is not None else TINY.replace(engine=replace(TINY.engine, clip=1.0))
    with pytest.raises(ConfigError, match=message):
        list(train_batched({tmp_path / "a": first, tmp_path / "b": second or first.replace(seed=1)}))
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_saved_takes_no_other_along(tmp_path, monkeypatch):
    save = Trainer.save

    def refusing(trainer):
        if trainer.folder.path.name == "b":
            raise NonFiniteLoss("Its weights are not finite.")
        save(trainer)

    monkeypatch.setattr(Trainer, "save", refusing)
    runs = {tmp_path / name: TINY.replace(seed=seed, lam=0.5) for seed, name in enumerate("abc")}
    with pytest.raises(NonFiniteLoss):
        list(train_batched(runs))
    assert [list(Run.open(folder).checkpoints) for folder in runs] == [[3], [], [3]]


def test_runs_at_different_steps(tmp_path):
    list(Trainer(TINY.replace(steps=2), tmp_path / "a"))
    with pytest.raises(RunError, match="these stand at different ones: a at 2, b at 0"):
        list(train_batched({tmp_path / "a": TINY, tmp_path / "b": TINY.replace(seed=1)}))
