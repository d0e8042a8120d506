"""The command line as a person types it."""

import html
import time
from dataclasses import replace
from functools import partialmethod

import pytest
from forked import ForkedCommand

from labkit import Run, recipes
from labkit.cli import main
from labkit.evaluation import EvaluationConfig
from labkit.experiments import Comparison
from labkit.losses import Contrastive, Dispersive, Repa, burst
from labkit.sampling import Sampler

SMALL = ["--batch-size", "8", "--steps", "4", "--log-every", "2"]


@pytest.mark.parametrize(
    ("settings", "sampled", "told", "refused"),
    [
        (
            ["--model", "DiT-Nano/4", "--dispersive.lam", "0.5"],
            ["--method", "ancestral", "--steps", "3", "--clip"],
            "ancestral, 3 steps (3 evaluations)",
            ["--method", "heun"],
        ),
        (
            ["--model", "MeanFlow-Nano/4", "--meanflow.share", "0.5", "--dispersive.lam", "0.5"],
            [],
            "meanflow, 1 step (1 evaluation)",
            ["--method", "ddim"],
        ),
        (
            ["--model", "SiT-Nano/4", "--flow.path", "vp", "--flow.prediction", "score"],
            ["--method", "sde_heun", "--steps", "2", "--diffusion", "linear"],
            "sde_heun, 2 steps (5 evaluations)",
            ["--method", "heun", "--eta", "0.5"],
        ),
    ],
)
def test_every_family_trains_and_samples(tmp_path, capsys, settings, sampled, told, refused):
    out = tmp_path / "run"
    assert main(["train", "digits", "--steps", "2", "--batch-size", "8", "--out", str(out), *settings]) == 0
    assert main(["sample", str(out), "--n", "5", *sampled]) == 0
    assert f"5 samples ({told}, guidance 1, seed 0)" in capsys.readouterr().out
    assert main(["sample", str(out), "--n", "5", *refused]) == 2
    assert f"{refused[-2].strip('-')} = " in capsys.readouterr().err


def test_train_sample_and_train_on(tmp_path, capsys):
    out = tmp_path / "x"
    asked = ["--dispersive.lam", "0.5", "--dispersive.tau", "0.25", "--dispersive.blocks", "0", "3"]
    assert main(["train", "digits", *SMALL, *asked, "--out", str(out)]) == 0
    run = Run.open(out)
    assert (run.config.dispersive.lam, run.config.dispersive.tau, run.config.dispersive.blocks) == (0.5, 0.25, (0, 3))
    assert list(run.checkpoints) == [4] and (out / "samples" / "step-00000004.png").exists()
    assert main(["sample", str(out), "--n", "12", "--steps", "2", "--guidance", "1.5"]) == 0
    assert "guidance 1.5" in capsys.readouterr().out and len(list((out / "samples").iterdir())) == 2
    assert main(["train", "--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", str(out), "--steps", "6"]) == 0
    assert max(run.checkpoints) == 6


@pytest.fixture
def two_steps(tmp_path):
    """Train for two steps with these words; what was asked for is what the folder says."""

    def train(words):
        asked = f"train digits --batch-size 8 --steps 2 --log-every 1 {words} --out".split()
        assert main([*asked, str(tmp_path / "x")]) == 0
        return Run.open(tmp_path / "x")

    return train


def test_every_setting_of_the_regularizers_can_be_typed(two_steps):
    run = two_steps(
        "--dispersive.lam 0.25 --dispersive.variant hinge --dispersive.margin 2 --dispersive.blocks all "
        "--dispersive.reduce sum --dispersive.negatives global --dispersive.include-self False "
        "--dispersive.schedule 0 0.5 3 1 "
        "--contrastive.lam 0.5 --contrastive.tau 0.1 --contrastive.blocks 0 3 --contrastive.chunk 4 "
        "--contrastive.noise restricted --contrastive.max-gap 0.2 --contrastive.alignment-weight 0.5 "
        "--repa.lam 0.5 --repa.block 2 --repa.hidden 16 --repa.schedule 9 1 10 0 --repa.teacher digits"
    )
    wanted = recipes.digits(
        batch_size=8,
        steps=2,
        log_every=1,
        dispersive=Dispersive(
            0.25,
            variant="hinge",
            margin=2.0,
            blocks="all",
            reduce="sum",
            negatives="global",
            include_self=False,
            schedule=((0, 0.5), (3, 1.0)),
        ),
        contrastive=Contrastive(
            0.5, tau=0.1, blocks=(0, 3), chunk=4, noise="restricted", max_gap=0.2, alignment_weight=0.5
        ),
        repa=Repa(0.5, block=2, hidden=16, schedule=burst(10)),
    )
    assert run.config.differences(wanted) == []
    assert {"dispersive", "contrastive", "alignment", "repa"} < set(run.metrics().name)
    assert list(run.checkpoints) == [2]


@pytest.mark.parametrize("form", ["additive", "original"])
@pytest.mark.parametrize("variant", ["infonce_l2", "infonce_cosine", "hinge", "covariance"])
def test_every_variant_and_its_parents_train(two_steps, capsys, variant, form):
    words = f"--dispersive.lam 0.5 --dispersive.variant {variant} --contrastive.lam 0.5 --contrastive.variant {variant}"
    words = f"{words} --contrastive.form {form} --model SiT-Nano/4"
    if (variant, form) == ("hinge", "original"):
        with pytest.raises(SystemExit):
            two_steps(words)
        streams = capsys.readouterr()
        assert "contrastive.form = 'original'" in streams.out + streams.err
        return
    run = two_steps(words)
    found = run.config
    assert (found.dispersive.variant, found.contrastive.variant, found.contrastive.form) == (variant, variant, form)
    losses = run.metrics().query("name in ('dispersive', 'contrastive')")
    assert len(losses) == 4
    assert losses.value.abs().min() > 1e-4


def test_what_is_off_can_be_typed_too(two_steps):
    words = "--dispersive.lam None --dispersive.tau None --dispersive.blocks None --contrastive.lam None"
    config = two_steps(f"{words} --repa.block None").config
    assert config.differences(recipes.digits(batch_size=8, steps=2, log_every=1)) == []


QUICK = EvaluationConfig(60, Sampler(steps=2))


def test_compare_on_emoji_judges_by_pixels(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Comparison, "evaluate", partialmethod(Comparison.evaluate, replace(QUICK, count=8)))
    assert main(["compare", "emoji", *SMALL, "--out", str(tmp_path / "c")]) == 0
    told = capsys.readouterr().out
    assert "frechet_pixels_excess" in told and "agreement" not in told
    assert "Fréchet distance" in html.unescape((tmp_path / "c" / "compare.html").read_text())


def test_compare_writes_one_page_that_needs_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Comparison, "evaluate", partialmethod(Comparison.evaluate, QUICK))
    assert main(["compare", "digits", *SMALL, "--out", str(tmp_path / "c")]) == 0
    told = capsys.readouterr().out
    assert "frechet" in told and "real against real" in told
    page = (tmp_path / "c" / "compare.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and 'src="http' not in page and "@import" not in page
    assert len(page) < 400_000
    for part in (
        "Same noise, same labels",
        "What training did",
        "Do the other blocks follow",
        "slow training down",
        '"lam": 0.5',
    ):
        assert part in html.unescape(page)
    assert Run.open(tmp_path / "c" / "baseline").config.dispersive.lam is None


@pytest.mark.parametrize(
    "words, told",
    [
        (["nonsense"], "'nonsense' is not a command"),
        (["train"], "no recipe is named"),
        (["train", "cats"], "'cats' is not a recipe"),
        (["train", "--resume", "nowhere"], "There is no run at nowhere"),
        (["sample", "nowhere"], "There is no run at nowhere"),
        (["train", "digits", "--model", "SiT-Q/2", "--out", "o"], "model = 'SiT-Q/2'"),
        (["train", "digits", "--model", "SiT-Nano/3", "--out", "o"], "patches of 3"),
        (["train", "digits", "--dispersive.lam", "1", "--dispersive.blocks", "9", "--out", "o"], "numbered 0 to 3"),
        (["train", "digits", "--dispersive.chunk", "5", "--out", "o"], "dispersive.chunk = 5 cannot be used: it must"),
        (["train", "digits", "--contrastive.lam", "1", "--contrastive.blocks", "9", "--out", "o"], "numbered 0 to 3"),
        (["train", "digits", "--repa.lam", "1", "--repa.block", "4", "--out", "o"], "repa.block = "),
        (["train", "digits", "--repa.lam", "1", "--model", "SiT-Nano/4", "--out", "o"], "repa.teacher = 'digits'"),
        (["compare", "digits", "--dispersive.lam", "None"], "lam = None cannot be used: set the λ of a regularizer"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    streams = capsys.readouterr()
    assert told in streams.err and "Traceback" not in streams.err
    assert not list(tmp_path.iterdir()), "a refused request must leave nothing behind"


@pytest.mark.parametrize(
    "words, told",
    [
        ("--dispersive.lam -1", "dispersive.lam = -1.0"),
        ("--dispersive.variant hinge --dispersive.tau 0.5", "dispersive.tau = 0.5"),
        ("--contrastive.lam -1", "contrastive.lam = -1.0"),
        ("--contrastive.max-gap 2", "contrastive.max_gap = 2.0"),
        ("--repa.hidden 0", "repa.hidden = 0"),
    ],
)
def test_a_bad_value_names_the_field(capsys, words, told):
    with pytest.raises(SystemExit):
        main(["train", "digits", *words.split(), "--out", "o"])
    streams = capsys.readouterr()
    assert told in (streams.out + streams.err).replace("\n", " ")


def test_doctor_tells_all_is_well(capsys):
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"labkit {command}" in told for command in ("doctor", "train", "sample", "compare"))


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "x"
    words = ["train", "digits", "--batch-size", "8", "--log-every", "1", "--out", str(out)]
    command = ForkedCommand(*words, folder=tmp_path)
    while command.running and lines(out / "metrics.csv") < 2:
        time.sleep(0.02)  # polling, until it has trained a step
    status, told, errors = command.interrupt()
    assert status == 130 and "Traceback" not in errors
    assert f"labkit train --resume {out}" in told
    (saved,) = Run.open(out).checkpoints
    assert f"step {saved}" in told
