"""How a step is computed changes its speed and its memory, and nothing that anyone learns from it."""

import pytest
import torch
from tiny import everything, finished, tiny, trained

from labkit import ConfigError, Run, Trainer, recipes
from labkit.config import Engine
from labkit.losses import Contrastive, Repa
from labkit.scale import PAPER_STEPS

CHUNKED = {
    "dispersive": dict(lam=0.5, chunk=2),
    "contrastive": dict(lam=None, contrastive=Contrastive(0.5, tau=0.3, chunk=4, noise="restricted")),
    "repa": dict(lam=None, model="SiT-Nano/2", repa=Repa(0.5, hidden=16)),
    "DiT": dict(lam=0.5, chunk=4, model="DiT-Nano/4"),
    "off": dict(lam=None),
}


def learnt(config) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """All that six steps log, and the gradient of the last of them."""
    made = Trainer(config)
    values = [report.values() for report in made]
    return values, {name: p.grad for name, p in made.objective.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("case", "count"), [*((case, 2) for case in CHUNKED), ("dispersive", 4), ("repa", 4)])
def test_micro_batches_make_the_same_step(case, count):
    """Chunks of negatives lie within a micro-batch, so nothing of a step tells in how many pieces it was computed."""
    config = tiny(**CHUNKED[case], steps=6)
    (whole, gradient), (pieces, summed) = (learnt(config.replace(engine=Engine(accumulate=n))) for n in (1, count))
    for ours, theirs in zip(pieces, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert summed.keys() == gradient.keys()
    apart = {name: (summed[name] - gradient[name]).norm() for name in gradient}
    for name in gradient:  # Adam's first steps make much of gradients that are nothing but rounding
        assert apart[name] <= 1e-2 * gradient[name].norm() + 1e-6, name
    total = torch.stack([gradient[name].norm() for name in gradient]).norm()
    assert torch.stack(list(apart.values())).norm() <= 5e-4 * total


def test_local_negatives_are_those_of_a_micro_batch():
    """Without chunks: two micro-batches of four are two chunks of four."""
    pieces = [r.terms["dispersive"].item() for r in Trainer(tiny(steps=3, engine=Engine(accumulate=2)))]
    chunks = [r.terms["dispersive"].item() for r in Trainer(tiny(steps=3, chunk=4))]
    whole = [r.terms["dispersive"].item() for r in Trainer(tiny(steps=3))]
    assert pieces == pytest.approx(chunks, rel=1e-5)
    assert pieces != pytest.approx(whole, rel=1e-2)
    given = (dict(engine=Engine(accumulate=2)), dict(chunk=4), {})
    assert [Trainer(tiny(**changes)).negatives for changes in given] == [4, 4, 8]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (dict(engine=Engine(accumulate=3)), r"batch_size = 8 .*multiple of 1 ranks × engine.accumulate 3"),
        (dict(engine=Engine(accumulate=4), chunk=4), r"dispersive.chunk = 4 .*divide the 2 samples of a micro-batch"),
        (dict(engine=Engine(accumulate=8)), r"batch_size = 8 .*micro-batch of 1.*fewer ranks"),
        (dict(engine=Engine(accumulate=4), variant="covariance"), r"batch_size = 8 .*micro-batch of 2"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(changes, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Trainer(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{}, dict(model="DiT-Nano/4"), dict(model="MeanFlow-Nano/4")])
def test_checkpointing_trains_the_same_bits(changes):
    plain, again = (
        finished(tiny(**changes, steps=4)),
        finished(tiny(**changes, steps=4, engine=Engine(checkpointing=True))),
    )
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_checkpointing_keeps_little_of_a_block():
    """Bytes that autograd holds between forward and backward."""

    def kept(checkpointing: bool) -> int:
        made = Trainer(tiny(batch_size=32, model="SiT-Nano/2", engine=Engine(checkpointing=checkpointing)))
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            made.objective(*made.stream.at(0))
        return sum(sizes.values())

    assert kept(True) < 0.4 * kept(False)


def test_everything_at_once_under_bfloat16():
    """Weights, moments and regularizers stay float32; the losses are those of float32 but for rounding."""
    config = everything(steps=5)
    exact = [report.terms for report in Trainer(config)]
    low = Trainer(config.replace(engine=Engine(precision="bfloat16")))
    found = [report.terms for report in low]
    assert all(p.dtype == torch.float32 for p in low.network.parameters())
    for ours, theirs in zip(found, exact, strict=True):
        assert all(term.dtype == torch.float32 for term in ours.values())
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0.03, atol=0.02)
    assert found[-1]["total"] != exact[-1]["total"]


def test_a_regularizer_reads_bfloat16_features_in_float32():
    seen = []
    config = tiny(engine=Engine(precision="bfloat16"), log_every=1, steps=1)
    made = Trainer(config)
    made.network.blocks[1].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    report = next(iter(made))
    assert seen == [torch.float32]  # the residual stream: bfloat16 is added to it, block by block
    assert report.terms["dispersive"].dtype == torch.float32


def test_clipping_scales_the_whole_gradient(monkeypatch):
    norms = []
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    list(Trainer(tiny(steps=3)))
    free = norms.copy()
    norms.clear()
    list(Trainer(tiny(steps=3, engine=Engine(clip=0.1))))
    assert min(free) > 0.1
    assert norms == pytest.approx([0.1] * 3, rel=1e-3)


def test_a_run_goes_on_with_another_engine(tmp_path):
    """Faster, with less memory, kept longer: the same experiment."""
    straight = finished(tiny(steps=8))
    trained(tiny(steps=4), tmp_path)
    other = Engine(checkpointing=True)
    resumed = Trainer(tiny(steps=8, engine=other, keep_last=9, save_every=3, log_every=2), tmp_path)
    assert resumed.step == 4
    list(resumed)
    found = {name: tensor for name, tensor in resumed.network.state_dict().items()}
    assert all(torch.equal(found[name], straight[f"model.{name}"]) for name in found)
    assert Run.open(tmp_path).config.engine == other


def test_keep_every(tmp_path):
    run = Run.open(trained(tiny(steps=12, save_every=2, keep_last=2, keep_every=4), tmp_path))
    assert list(run.checkpoints) == [4, 8, 10, 12]


def test_recipes_for_a_gpu_say_what_the_papers_do(unchecked):
    """SCIENCE: two official settings, and a step count of 80 epochs of 1,281,167 images."""
    paper, release = recipes.imagenet256(preset="paper"), recipes.imagenet256("SiT-B/2", preset="release")
    d = paper.dispersive
    assert (d.lam, d.tau, d.chunk, d.blocks) == (0.5, 0.5, 16, None)
    d = release.dispersive
    assert (d.lam, d.tau, d.chunk, d.blocks) == (0.25, 1.0, 32, "last")
    assert (paper.optimizer.betas, release.optimizer.betas) == ((0.9, 0.95), (0.9, 0.999))
    assert paper.optimizer.lr == release.optimizer.lr == 1e-4
    assert (paper.batch_size, paper.ema_decay, paper.label_drop) == (256, 0.9999, 0.1)
    assert paper.steps == PAPER_STEPS
    base = recipes.imagenet256(preset="baseline")
    assert base.regularizers == ()
    assert base.baseline() == paper.baseline()
    assert recipes.imagenet256(preset="meanflow").model == "MeanFlow-XL/2"
    assert recipes.imagenet256(preset="repa_dispersive").regularizers == ("dispersive", "repa")
    with pytest.raises(ConfigError, match="preset = 'best'"):
        recipes.imagenet256(preset="best")


def test_the_last_block():
    from labkit.losses import Dispersive
    from labkit.objective import blocks_of

    assert blocks_of(Dispersive(blocks="last"), "SiT-B/2") == (11,)
    assert Trainer(tiny(blocks="last", steps=1)).objective.taps == [3]
