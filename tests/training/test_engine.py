"""Engine settings change a step's speed and memory, and nothing else."""

import sysconfig

import pytest
import torch
from small import kept_bytes
from tiny import assert_same, everything, finished, tiny, trained

from labkit import Job, Run, Trainer, distributed
from labkit.checks import ConfigError
from labkit.config import Engine
from labkit.losses import Contrastive, Repa

CHUNKED = {
    "dispersive": dict(lam=0.5, chunk=2),
    "contrastive": dict(lam=None, contrastive=Contrastive(0.5, tau=0.3, chunk=4, noise="restricted")),
    "repa": dict(lam=None, model="SiT-Nano/2", repa=Repa(0.5, hidden=16)),
    "DiT": dict(lam=0.5, chunk=4, model="DiT-Nano/4"),
    "off": dict(lam=None),
}


def logged(config) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The values of all steps, and the gradient of the last."""
    trainer = Trainer(config)
    values = [report.values() for report in trainer]
    return values, {name: p.grad for name, p in trainer.objective.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("case", "count"), [*((case, 2) for case in CHUNKED), ("dispersive", 4), ("repa", 4)])
def test_micro_batches_make_the_same_step(case, count):
    """Chunks of negatives lie within a micro-batch, so nothing of a step tells in how many pieces it was computed."""
    config = tiny(**CHUNKED[case], steps=6)
    (whole, gradient), (pieces, summed) = (logged(config.replace(engine=Engine(accumulate=n))) for n in (1, count))
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


@pytest.mark.parametrize("changes", [{}, dict(model="DiT-Nano/4"), dict(model="MeanFlow-Nano/4")])
def test_checkpointing_trains_the_same_bits(changes):
    plain = finished(tiny(**changes, steps=4))
    assert_same(finished(tiny(**changes, steps=4, engine=Engine(checkpointing=True))), plain)


def test_checkpointing_keeps_little_of_a_block():
    def kept(checkpointing: bool) -> int:
        trainer = Trainer(tiny(batch_size=32, model="SiT-Nano/2", engine=Engine(checkpointing=checkpointing)))
        return kept_bytes(trainer.network, lambda: trainer.objective(*trainer.stream.at(0)))

    assert kept(True) < 0.4 * kept(False)


def test_everything_at_once_under_bfloat16():
    """Weights, moments and regularizers stay float32; the losses are those of float32 but for rounding."""
    config = everything(steps=5)
    exact = [report.terms for report in Trainer(config)]
    low = Trainer(config.replace(engine=Engine(precision="bfloat16")))
    rounded = [report.terms for report in low]
    assert all(p.dtype == torch.float32 for p in low.network.parameters())
    for ours, theirs in zip(rounded, exact, strict=True):
        assert all(term.dtype == torch.float32 for term in ours.values())
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0.03, atol=0.02)
    assert rounded[-1]["total"] != exact[-1]["total"]


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
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, straight[f"model.{name}"]), name
    assert Run.open(tmp_path).config.engine == other


@pytest.mark.parametrize(
    "left",
    [
        dict(SLURM_NTASKS=8, SLURM_JOB_NAME="train", SLURM_PROCID=0, SLURM_LOCALID=0, SLURM_NODELIST="n1"),
        dict(RANK=3, WORLD_SIZE=8, LOCAL_RANK=3, LOCAL_WORLD_SIZE=8, MASTER_ADDR="n1", MASTER_PORT=29500),
        dict(OMPI_COMM_WORLD_RANK=3, OMPI_COMM_WORLD_SIZE=8, PMI_RANK=3),
    ],
    ids=["Slurm", "ranks", "MPI"],
)
def test_variables_that_a_batch_system_leaves_make_no_ranks(left, monkeypatch):
    for name, value in left.items():
        monkeypatch.setenv(name, str(value))
    trainer = Trainer(tiny())
    assert (trainer.fabric.world_size, trainer.leads) == (1, True)
    assert (distributed.place(), distributed.local_rank()) == ((0, 1), 0)


@pytest.mark.parametrize("start", [Trainer, Job.launch])
@pytest.mark.parametrize(
    ("lack", "words"),
    [
        (lambda patch: patch.setenv("CXX", "/nowhere/g++ -O3"), r".*no /nowhere/g\+\+ -O3 .*install g\+\+"),
        (lambda patch: patch.setenv("PATH", "/nowhere"), r"there is no g\+\+; install g\+\+"),
        (lambda patch: patch.setattr(sysconfig, "get_path", lambda name: "/nowhere"), "Python's .*install python3"),
    ],
    ids=["CXX", "PATH", "Python.h"],
)
def test_compiling_without_a_compiler_is_refused_before_there_is_a_folder(start, lack, words, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    lack(monkeypatch)
    with pytest.raises(ConfigError, match=f"engine.compile = True cannot be used: {words}.*--engine.no-compile"):
        start(tiny(engine=Engine(compile=True)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
