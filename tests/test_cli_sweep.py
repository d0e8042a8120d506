"""``labkit sweep``: axes and lists as they are typed, the table at the end, failures, Ctrl-C, and going on."""

import pytest
from forked import interrupted, rows

from labkit import recipes
from labkit.arguments import axes_of, read_list
from labkit.checks import ConfigError
from labkit.cli import main
from labkit.experiments import Sweep

TINY = ["digits", "--model", "SiT-Nano/4", "--batch-size", "8", "--steps", "4"]
ENDS = ["--count", "40", "--workers", "2"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0..3"], {"seed": [0, 1, 2, 3]}),
        (["seed=0,2..3,7"], {"seed": [0, 2, 3, 7]}),
        (["dispersive.lam=None,0,1e-1"], {"dispersive.lam": [None, 0, 0.1]}),
        (["model=SiT-Nano/2,DiT-Nano/2"], {"model": ["SiT-Nano/2", "DiT-Nano/2"]}),
        (["dispersive.blocks=all, (0,1),(2,)"], {"dispersive.blocks": ["all", (0, 1), (2,)]}),
        (["batch-size=8", "engine.compile=False"], {"batch_size": [8], "engine.compile": [False]}),
    ],
)
def test_axes_as_they_are_typed(words, expected):
    axes = axes_of(words)
    assert axes == expected and [*map(type, axes)] == [*map(type, expected)]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["seed"], "grid = 'seed' cannot be used: write FIELD=VALUE,VALUE"),
        (["seed="], "write FIELD=VALUE,VALUE"),
        (["=1"], "write FIELD=VALUE,VALUE"),
        (["seed=1,,2"], "there is a value missing beside a comma"),
        (["seed=3..1"], "3..1 must go from the smaller number to the larger"),
        (["seed=0..99999999"], "0..99999999 has more than 10,000 values"),
        (["seed=1", "seed=2"], "seed has its values already"),
    ],
)
def test_axes_that_cannot_be(words, printed):
    with pytest.raises(ConfigError, match=printed):
        axes_of(words)


def test_a_file_of_runs(tmp_path):
    file = tmp_path / "runs.txt"
    mine, big = "digits --dispersive.lam 0.5 --dispersive.tau 1 # here", "imagenet256 --dispersive.lam 0.5"
    file.write_text(f"# runs\n\ndigits --seed 1\nmine: {mine}\nbig: {big} --preset release\n")
    expected = {"digits,seed-1": recipes.digits(seed=1), "mine": recipes.digits(lam=0.5, tau=1.0)}
    expected["big"] = recipes.imagenet256(preset="release", lam=0.5)  # 0.5 is λ of the other preset, not of this one
    assert read_list(file) == expected


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", "it names no runs"),
        ("cats", "line 1 of .* cannot be used: 'cats' is not a recipe"),
        ("\ndigits --seed -1", "line 2 of .* cannot be used: seed = -1"),
        ("digits --repa.hidden 0", "line 1 of .* cannot be used: repa.hidden = 0"),
        ("digits --sead 1", "line 1 of .* cannot be used, as said above"),
        ("digits 'x", "line 1 of .* cannot be read: No closing quotation"),
        ("digits --out x", "leave --out away"),
        ("digits\ndigits", "there is a run of this name already"),
        ("mine:", "line 1 of .* no recipe is named"),
        (f"digits --dataset /{'a/' * 100}", "that is too long for a folder; begin the line with NAME:"),
    ],
)
def test_files_of_runs_that_cannot_be(tmp_path, text, printed):
    (tmp_path / "runs.txt").write_text(text)
    with pytest.raises(ConfigError, match=printed):
        read_list(tmp_path / "runs.txt")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["digits"], "grid = None cannot be used: name fields and values, as in --grid seed=0..4"),
        (["digits", "--grid", "sead=1"], "did you mean seed"),
        (["digits", "--grid", "lam=1"], "did you mean dispersive.lam or contrastive.lam or repa.lam"),
        (["digits", "--grid", "seed=1", "--count", "2"], "count = 2"),
        (["digits", "--grid", "seed=1", "--count", "5000"], "count = 5000 cannot be used: digits has 1297 training"),
        (["digits", "--grid", "dataset=cats"], "dataset = 'cats' cannot be used"),
        (["--list", "nowhere"], "list = 'nowhere' cannot be used: there is no such file"),
    ],
)
def test_a_mistake_in_a_sweep_leaves_nothing_behind(words, printed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    assert printed in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_from_the_command_to_the_table(tmp_path, capsys):
    out = tmp_path / "out"
    grids = ["--grid", "dispersive.lam=None,0.5", "--grid", "seed=0..1"]
    words = ["sweep", *TINY, *grids, *ENDS, "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "4 runs in" in printed and "lam=0.5" in printed and "real against real" in printed and "±" in printed
    loaded = Sweep.load(out)
    assert set(loaded.table["run"].unique()) >= {"lam=None,seed=0", "lam=0.5,seed=1"} and not loaded.failures
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(words) == 0 and printed.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]
    assert before and before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    chosen = loaded.table[(loaded.table["run"] == "lam=0.5,seed=1") & (loaded.table["measure"] == "agreement")]
    assert 0 <= chosen["value"].item() <= 1 and chosen["step"].item() == 4


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path, capsys):
    file, out = tmp_path / "runs.txt", tmp_path / "out"
    wild = "--optimizer.lr 1e30"
    file.write_text("\n".join(["well: " + " ".join(TINY), f"wild: {' '.join(TINY)} {wild}"]))
    assert main(["sweep", "--list", str(file), "--out", str(out), *ENDS]) == 1
    printed = capsys.readouterr().out
    assert "Failed: wild: " in printed and set(Sweep.load(out).table["run"]) == {"well", "real against real"}


def test_ctrl_c_saves_every_run_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    # Too few steps to repay compiling, which would take most of this test.
    words = ["digits", "--model", "SiT-Nano/4", "--batch-size", "8", "--steps", "8000", "--grid", "seed=0..1"]

    def training():
        return all(rows(out / f"seed={seed}") > 1 for seed in (0, 1))

    status, printed, _ = interrupted("sweep", *words, *ENDS, "--out", str(out), folder=tmp_path, when=training)
    assert status == 130
    assert "Stopped and saved. Go on with the same command:  labkit sweep digits" in printed
    assert all(list((out / f"seed={seed}" / "checkpoints").iterdir()) for seed in (0, 1))
