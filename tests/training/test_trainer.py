"""The loop: the same as one written by hand, independent of its surroundings, and stopped by a loss that is NaN."""

import itertools
import os
import re
import shlex
import threading

import pytest
import torch
from PIL import Image
from tiny import assert_same, everything, finished, outcome, tiny, trained, weights

from labkit import Run, Trainer, build_model, datasets, dispersive_loss, training
from labkit.cli import main
from labkit.datasets import Images
from labkit.metrics import DigitsClassifier
from labkit.models import DigitsTeacher
from labkit.training import NonFiniteLoss
from labkit.training.stream import Stream
from labkit.training.trainer import build_network


@pytest.mark.parametrize("lam", [None, 0.5])
def test_equals_a_loop_written_by_hand(lam):
    """Plain torch, no Fabric, no trainer; the equations spelled out. Five steps, bit for bit."""
    config = tiny(steps=5, lam=lam, tau=0.3, blocks=(0, 2), label_drop=0.4, seed=3)
    data = datasets.digits("train")
    torch.manual_seed(3)
    net = build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)
    learnt = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    totals = []
    for step in range(5):
        (x1, y, _), (x0, uniforms, number, second, ends) = Stream(data, 8, 3, torch.device("cpu")).at(8 * step)
        assert (number, second, ends) == (step, None, None)
        t = uniforms[:, 0]
        y = y.masked_fill(uniforms[:, 1] < 0.4, 10)
        tt = t[:, None, None, None]
        out = net(tt * x1 + (1 - tt) * x0, t, y, taps=(0, 2))
        loss = (out.output - (x1 - x0)).pow(2).flatten(1).mean(dim=1).mean()
        if lam:
            terms = [dispersive_loss(out.features[block], tau=0.3) for block in (0, 2)]
            loss = loss + lam * torch.stack(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    trainer = Trainer(config)
    assert [report.terms["total"].item() for report in trainer] == totals
    assert_same(trainer.network.state_dict(), net.state_dict())
    assert trainer.network.final_layer.linear.weight.any()


@pytest.mark.parametrize(("steps", "every", "logged"), [(23, 10, [1, 2, 4, 6, 8, 10, 20, 23]), (7, 3, [3, 6, 7])])
def test_reports(steps, every, logged):
    trainer = Trainer(tiny(steps=steps, log_every=every))
    assert len(trainer) == steps
    reports = list(trainer)
    assert len(trainer) == 0
    assert [(r.step, r.samples) for r in reports] == [(n, 8 * n) for n in range(1, steps + 1)]
    assert [r.step for r in reports if r.meters] == logged
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(reports))
    for report in reports:
        assert report.terms.keys() == {"total", "velocity", "dispersive"}
        total, velocity, dispersive = (report.terms[name] for name in ("total", "velocity", "dispersive"))
        assert total == velocity + 0.5 * dispersive
        assert not total.requires_grad
        values = report.values()
        assert values["total"] == total.item()
        assert all(type(value) is float for value in values.values())


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_the_average_follows_the_live_weights_by_the_recursion(decay):
    trainer = Trainer(tiny(ema_decay=decay))
    name = "blocks.1.mlp.fc1.weight"
    average = trainer.network.get_parameter(name).detach().double()
    for report in trainer:
        n = report.step - 1
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * trainer.network.get_parameter(name).detach().double()
    followed = trainer.ema.network.get_parameter(name)
    torch.testing.assert_close(followed.double(), average, rtol=1e-5, atol=1e-7)
    assert torch.equal(followed, trainer.network.get_parameter(name)) == (decay == 0)
    assert torch.equal(trainer.ema.network.pos_embed, trainer.network.pos_embed)
    assert not trainer.ema.network.training and not any(p.requires_grad for p in trainer.ema.network.parameters())


def test_another_thread_that_builds_networks_takes_no_numbers_from_the_initial_weights():
    """A panel opens runs and loads classifiers in the background while a cell builds its own network."""
    config, images = tiny(seed=1), datasets.digits("train")
    alone, over = weights(Trainer(config)), threading.Event()

    def busy():
        while not over.is_set():
            build_network(config.replace(seed=2), *images.dimensions)
            DigitsClassifier.load()
            DigitsTeacher.load()

    other = threading.Thread(target=busy)
    other.start()
    try:
        for _ in range(20):
            assert_same(weights(Trainer(config)), alone)
    finally:
        over.set()
        other.join()


def test_training_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = finished(tiny(steps=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(finished(tiny(steps=3)), first)


def test_same_bits_beside_another_trainer_from_another_thread_and_with_pauses():
    a, b = Trainer(tiny(steps=4)), Trainer(tiny(steps=4, lam=None))
    assert len(list(zip(a, b, strict=True))) == 4
    in_thread = {}
    thread = threading.Thread(target=lambda: in_thread.update(finished(tiny(steps=4))))
    thread.start()
    thread.join()
    paused = Trainer(tiny(steps=4))
    for _ in range(4):
        next(iter(paused))
    assert_same(weights(a), in_thread)
    assert_same(weights(paused), in_thread)
    assert_same(weights(b), finished(tiny(steps=4, lam=None)))


def test_nan_in_the_data_stops_before_it_is_saved(tmp_path):
    trainer = Trainer(tiny(), tmp_path / "run")
    with pytest.raises(NonFiniteLoss) as error:
        for report in trainer:
            if report.step == 7:
                x = torch.full_like(trainer.stream.images.x, torch.nan)
                trainer.stream.images = Images(x, trainer.stream.images.y, 10)
    for words in ("step 8", "velocity = nan", "at step 5", "optimizer.lr (now 0.001)", "dispersive.lam (now 0.5)"):
        assert words in str(error.value)
    assert list(Run.open(tmp_path / "run").checkpoints) == [5]
    [way] = re.findall(r"`labkit (.+)`", str(error.value))  # on from there, with half the rate
    assert main(shlex.split(way)) == 0
    fork = Run.open(tmp_path / "run-lower")
    assert fork.parent.step == 5 and fork.config.optimizer.lr == 0.0005 and 12 in fork.checkpoints
    assert outcome(trained(tiny(), tmp_path / "run")) == outcome(trained(tiny(), tmp_path / "straight"))


def test_a_sum_can_overflow_though_its_terms_do_not():
    """The features scatter so widely that L_disp is about −log 8, and λ times that is beyond float32."""
    with pytest.raises(NonFiniteLoss, match=r"step 1 is not finite \(total\); nothing was saved yet"):
        list(Trainer(tiny(lam=3e38, tau=1e-6)))


@pytest.mark.parametrize(
    ("config", "weight"),
    [(tiny, "network.final_layer.linear.weight"), (everything, "projector.4.bias")],
    ids=["network", "projector"],
)
def test_weights_that_are_not_finite_are_never_saved(tmp_path, config, weight):
    """The step itself broke them, and the reader leaves before the next loss could show it."""
    trainer = Trainer(config(), tmp_path)
    part, _, name = weight.partition(".")
    reports = iter(trainer)
    next(report for report in reports if report.step == 7)
    getattr(trainer, part).get_parameter(name).data.view(-1)[0] = torch.nan
    with pytest.raises(NonFiniteLoss, match="weights after step 7 are not finite"):
        reports.close()
    assert list(Run.open(tmp_path).checkpoints) == [5]


def test_sheets_of_samples_lie_beside_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(training.trainer, "SHEET", 13)
    trained(tiny(steps=7), tmp_path)
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in sheets] == ["step-00000005.png", "step-00000007.png"]
    assert Image.open(sheets[0]).size == (10 * 10 * 4, 2 * 10 * 4)  # ten 8×8 images a row, bordered, fourfold
    assert sheets[0].read_bytes() != sheets[1].read_bytes()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(Trainer(tiny(steps=6)))
    assert os.listdir(tmp_path) == []


def test_embeddings_are_scaled_at_the_start_and_with_them_every_block(unchecked):
    """The gates are closed at first, so every block returns the embedding."""
    x, t, y = torch.randn(3, 1, 8, 8), torch.full((3,), 0.5), torch.arange(3)
    plain, large = (build_network(tiny(embedding_scale=s), 8, 1, 10).features(x, t, y, (0, 3)) for s in (1.0, 8.0))
    for block in (0, 3):
        torch.testing.assert_close(large[block], 8 * plain[block])
