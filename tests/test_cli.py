"""The command line as a person types it."""

import html
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import tyro
from forked import interrupted, rows

import labkit
from labkit import Run, cli, recipes
from labkit.arguments import _experiment, with_recipes
from labkit.cli import main
from labkit.evaluation import EvaluationConfig
from labkit.experiments import Comparison
from labkit.losses import Contrastive, Dispersive, Repa, burst
from labkit.sampling import Sampler

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--batch-size", "8", "--steps", "4", "--log-every", "2"]


@pytest.mark.parametrize(
    ("model", "sampler", "caption", "refused"),
    [
        ("DiT-Nano/4", "--method ancestral --steps 3 --clip", "ancestral, 3 steps (3 evaluations)", "--method heun"),
        ("MeanFlow-Nano/4 --meanflow.share 0.5", "", "meanflow, 1 step (1 evaluation)", "--method ddim"),
        (
            "SiT-Nano/4 --flow.path vp --flow.prediction score",
            "--method sde_heun --steps 2 --diffusion linear",
            "sde_heun, 2 steps (5 evaluations)",
            "--method heun --eta 0.5",
        ),
    ],
)
def test_every_family_trains_and_samples(tmp_path, capsys, model, sampler, caption, refused):
    out = str(tmp_path / "run")
    assert main([*f"train digits --steps 2 --batch-size 8 --model {model}".split(), "--out", out]) == 0
    assert main(["sample", out, "--n", "5", *sampler.split()]) == 0
    assert f"5 samples ({caption}, guidance 1, seed 0)" in capsys.readouterr().out
    assert main(["sample", out, "--n", "5", *refused.split()]) == 2
    assert f"{refused.split()[-2].strip('-')} = " in capsys.readouterr().err


def shown_commands():
    """Commands of the texts that show some, in blocks or between backticks, without those that leave words out."""
    files = [ROOT / "README.md", *(Path(module.__file__) for module in (cli, labkit.recipes))]
    texts = [file.read_text(encoding="utf-8").replace("\\\n", " ") for file in files]
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    shown = re.findall(
        r"^ {4,}(?:torchrun .* -m |\S+/bin/)?labkit (.+)|`labkit ([a-z]+ [^`\n]+)`", "\n".join(texts), re.M
    )
    commands = (tuple(shlex.split("".join(words), comments=True)) for words in shown if "…" not in "".join(words))
    return sorted({words for words in commands if "--help" not in words})


def test_every_command_that_a_text_shows_is_one():
    commands = shown_commands()
    assert len(commands) > 45
    for words in commands:
        assert callable(cli._parsed(words)), words  # it is ready to run


def test_train_sample_and_train_on(tmp_path, capsys):
    out = tmp_path / "x"
    repelled = ["--dispersive.lam", "0.5", "--dispersive.tau", "0.25", "--dispersive.blocks", "0", "3"]
    assert main(["train", "digits", *SMALL, *repelled, "--out", str(out)]) == 0
    run = Run.open(out)
    assert (run.config.dispersive.lam, run.config.dispersive.tau, run.config.dispersive.blocks) == (0.5, 0.25, (0, 3))
    assert list(run.checkpoints) == [4] and (out / "samples" / "step-00000004.png").exists()
    assert main(["sample", str(out), "--n", "12", "--steps", "2", "--guidance", "1.5"]) == 0
    assert "guidance 1.5" in capsys.readouterr().out and len(list((out / "samples").iterdir())) == 2
    assert main(["sample", str(out), "--out", str(out)]) == 2
    assert "it is a folder; name a file in it" in capsys.readouterr().err
    assert main(["train", "--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", str(out), "--steps", "6"]) == 0
    assert max(run.checkpoints) == 6


def typed(words):
    """The config that the words of a training command make."""
    words = ["digits", *words.split()]
    return tyro.cli(with_recipes(_experiment, words), args=words)[0]


def test_every_setting_of_the_regularizers_can_be_typed():
    config = typed(
        "--dispersive.lam 0.25 --dispersive.variant hinge --dispersive.margin 2 --dispersive.blocks all "
        "--dispersive.reduce sum --dispersive.negatives global --dispersive.include-self False "
        "--dispersive.schedule 0 0.5 3 1 "
        "--contrastive.lam 0.5 --contrastive.tau 0.1 --contrastive.blocks 0 3 --contrastive.chunk 4 "
        "--contrastive.noise restricted --contrastive.max-gap 0.2 --contrastive.alignment-weight 0.5 "
        "--repa.lam 0.5 --repa.block 2 --repa.hidden 16 --repa.schedule 9 1 10 0 --repa.teacher digits"
    )
    pairs = dict(negatives="global", include_self=False, schedule=((0, 0.5), (3, 1.0)))
    view = dict(noise="restricted", max_gap=0.2, alignment_weight=0.5)
    wanted = recipes.digits(
        dispersive=Dispersive(0.25, variant="hinge", margin=2.0, blocks="all", reduce="sum", **pairs),
        contrastive=Contrastive(0.5, tau=0.1, blocks=(0, 3), chunk=4, **view),
        repa=Repa(0.5, block=2, hidden=16, schedule=burst(10)),
    )
    assert config.differences(wanted) == []


def test_what_is_off_can_be_typed_too():
    words = "--dispersive.lam None --dispersive.tau None --dispersive.blocks None --contrastive.lam None"
    off = typed(f"{words} --repa.block None")
    assert off.differences(recipes.digits()) == []


QUICK = EvaluationConfig(60, Sampler(steps=2))


def test_compare_on_emoji_judges_by_pixels(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Comparison, "evaluate", partialmethod(Comparison.evaluate, replace(QUICK, count=8)))
    assert main(["compare", "emoji", *SMALL, "--out", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr().out
    assert "Fréchet distance of pixels, above real" in printed and "recognised as requested" not in printed
    assert "Fréchet distance" in html.unescape((tmp_path / "c" / "compare.html").read_text())


def test_compare_writes_one_page_that_needs_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Comparison, "evaluate", partialmethod(Comparison.evaluate, QUICK))
    assert main(["compare", "digits", *SMALL, "--out", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr().out
    assert "Fréchet distance, above real" in printed and "real against real" in printed and "frechet" not in printed
    page = (tmp_path / "c" / "compare.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and 'src="http' not in page and "@import" not in page
    assert len(page) < 400_000
    chapters = ("Same noise, same labels", "What training did", "Do the other blocks follow", "slow training down")
    titles = ("<th>Fréchet distance of pixels</th>", "<th>effective rank</th>")
    assert all(part in html.unescape(page) for part in (*chapters, *titles, '"lam": 0.5')) and "frechet" not in page
    assert Run.open(tmp_path / "c" / "baseline").config.dispersive.lam is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train", "no recipe is named; write labkit train with one of digits"),
        ("train digits --resume x", "give a recipe or --resume, not both"),
        ("train --resume nowhere", "There is no run at nowhere"),
        ("sample nowhere", "There is no run at nowhere"),
        ("evaluate nowhere", "There is no run at nowhere"),
        ("train digits --model SiT-Q/2 --out o", "model = 'SiT-Q/2'"),
        ("train digits --dispersive.variant hinge --dispersive.tau 0.5", "dispersive.tau = 0.5 cannot be used"),
        ("train imagenet256 --preset best", "preset = 'best' cannot be used: choose one of baseline, paper"),
        ("compare digits --dispersive.lam None", "lam = None cannot be used: set the λ of a regularizer"),
        (["train", "digits", "--out", ""], "out = '' cannot be used: it is empty"),
        ("evaluate r --reference=", "reference = '' cannot be used: it is empty"),
        (["sample", ""], "sample = '' cannot be used: it is empty"),
        ("sample " + "x" * 300, "the name is too long; take a shorter one"),
        ("train digits --optimizer.lr inf --out o", "take a finite number above 0"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split() if isinstance(words, str) else words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("labkit: ") and named in line
    assert not list(tmp_path.iterdir()), "a refused request must leave nothing behind"


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("trian digits", "train"),
        ("train digts", "digits"),
        ("sweep emojis --grid seed=0..1", "emoji"),
        ("train --resme runs/x", "--resume"),
        ("train digits --dispersive.lamda 0.5", "--dispersive.lam"),
        ("train imagenet256 --bach-size 8", "--batch-size"),
        ("sweep --lits runs.txt", "--list"),
        ("evaluate runs/x --cuont 8", "--count"),
        ("prepare photos --size 8 --out o --hold-out 3", "--held-out"),
    ],
)
def test_a_misspelt_word_brings_the_right_one(words, near, capsys):
    assert main(words.split()) == 2
    suggestion = re.search(r"(did you mean '|Perhaps you meant:\W+)(\S+?)['\s]", capsys.readouterr().err, re.DOTALL)
    assert suggestion[2].strip("─│") == near.strip("-")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", "doctor prepare train sample evaluate compare sweep"),
        ("doctor", "Check what this machine can do"),
        ("help", "doctor prepare train sample evaluate compare sweep"),
        ("help train digits", "--out --steps"),
        ("prepare", "SOURCE --size --latents --verify"),
        ("prepare --verify x", "--verify"),
        ("train", "digits letters emoji cifar10 imagenet256 --resume"),
        ("train digits", "--out --steps --dispersive.lam 0.002"),
        ("train imagenet256", "--preset meanflow_dispersive --out data/cache/imagenet256"),
        ("train imagenet256 --preset release", "--dispersive.lam 0.25"),
        ("train resume", "--resume --steps"),
        ("sample", "RUN --n --method --guidance --seed"),
        ("evaluate", "RUN --weights --count --method --npz"),
        ("compare", "digits letters emoji cifar10 imagenet256"),
        ("compare digits", "--out --steps 1500 --dispersive.lam 0.5"),
        ("sweep", "digits letters emoji cifar10 imagenet256 --list"),
        ("sweep digits", "--grid FIELD=VALUE --workers --count --batched"),
        ("sweep list", "--list --workers --count --batched"),
    ],
)
def test_help_at_every_level_speaks_to_a_stranger(words, shown, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words.split(), "--help"]) == 0
    shows = capsys.readouterr().out
    assert all(word in shows for word in shown.split())
    internals = (
        r"\{None\}(?!\|)|\{fixed\}|__|\b(asked|told|dummy|functools|lambda|partial|work|config|settings|how) options"
    )
    assert re.search(internals, shows) is None


def test_help_and_version_need_no_torch():
    code = (
        "import sys, labkit.cli as cli; cli.main(['--version']); cli.main(['--help']); sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert re.fullmatch(r"labkit \d+\.\d+\.\d+", shown[0])
    assert shown[1].startswith("usage: labkit ") and max(map(len, shown[2:])) <= 80


def test_every_public_name_loads_when_it_is_used():
    assert all(getattr(labkit, name).__name__.endswith(name) for name in labkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dispersive_los'"):
        labkit.dispersive_los  # noqa: B018


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "x"
    words = ["train", "digits", "--batch-size", "8", "--log-every", "1", "--out", str(out)]
    status, printed, errors = interrupted(*words, folder=tmp_path, when=lambda: rows(out) > 1)
    assert status == 130 and "Traceback" not in errors
    assert f"labkit train --resume {out}" in printed
    (saved,) = Run.open(out).checkpoints
    assert f"step {saved}" in printed
