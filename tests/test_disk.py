"""Paths that people give, files of every editor, and why a file cannot be read or written, with the way out."""

import contextlib
import errno
import os
import re
import resource
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from labkit import Job, Run, Trainer, datasets, load_official, recipes
from labkit.arguments import read_list
from labkit.checks import ConfigError, LabError
from labkit.datasets import prepare, verify
from labkit.datasets.store import load_array
from labkit.disk import DAY, DiskError, new_file, part_of, read_text, reason, remove_unfinished, replace_file, user_path
from labkit.evaluation.references import open_reference
from labkit.experiments import Comparison, Sweep, grid, sweep
from labkit.experiments.measures import Measures
from labkit.experiments.sweep import LONGEST
from labkit.models.export import save_official
from labkit.models.pretrained import load_pretrained
from labkit.runtime import runs_dir
from labkit.training.folder import RunFolder

CONFIG = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=2)
OPENERS = {
    "Run": Run.open,
    "Trainer": lambda path: Trainer(CONFIG, path),
    "Job.launch": lambda path: Job.launch(CONFIG, path),
    "Job.attach": Job.attach,
    "Comparison": lambda path: Comparison({"a": CONFIG}, path),
    "sweep": lambda path: sweep({"a": CONFIG}, path, Measures()),
    "Sweep": Sweep.load,
    "prepare from": lambda path: prepare(path, "store", size=8),
    "prepare to": lambda path: prepare("images", path, size=8),
    "verify": verify,
    "load": datasets.load,
    "reference": lambda path: open_reference(path, (1, 8, 8)),
    "official weights": load_official,
    "VAE or teacher": lambda path: load_pretrained("vae", path, "json", "an/example", "file", lambda *_: None),
}


@pytest.mark.parametrize("path", ["", "  ", "x" * 300, "~nobody-of-this-name/x", "a\0b"], ids=repr)
@pytest.mark.parametrize("opener", OPENERS)
def test_a_path_that_no_file_can_have_is_refused_wherever_one_is_taken(opener, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be used: (it is empty|the name is too long|.*write the path out)"):
        OPENERS[opener](path)
    assert not list(tmp_path.iterdir())


def test_the_home_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAB_RUNS", "~/mine")
    assert user_path("~/x", "out") == RunFolder("~/x").path == tmp_path / "x"
    assert runs_dir() == tmp_path / "mine"
    np.savez(tmp_path / "images.npz", x=np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8))
    store = prepare("~/images.npz", "~/store", size=8, channels=1, progress=False)
    assert store == tmp_path / "store" and len(datasets.load("~/store")) == 6
    assert open_reference("~/store", (1, 8, 8)).count == 6
    list(Trainer(CONFIG, "~/run"))
    assert Run.open("~/run").fork(0, "~/fork", lam=0.5).path == tmp_path / "fork"
    assert save_official(Run.open("~/run").model(), "~/run.safetensors").parent == tmp_path
    (tmp_path / "list.txt").write_text("digits")
    assert (tmp_path / "run" / "config.json").exists() and len(read_list(Path("~/list.txt"))) == 1


def test_a_relative_path_is_named_with_the_folder_that_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for opener in (Run.open, datasets.load):
        with pytest.raises(LabError, match=f"data/mine in {tmp_path}|{tmp_path}/data/mine"):
            opener("data/mine")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(LabError, match="working folder, which has been removed"):
        Run.open("runs/x")


@pytest.mark.parametrize(
    "remove",
    [
        lambda file: remove_unfinished(file.parents[1]),
        lambda file: replace_file(file, b"new"),
        lambda file: RunFolder(file.parents[1]).begin(CONFIG),
    ],
    ids=["a folder", "writing the same file", "a run that goes on"],
)
def test_what_a_dead_process_left_half_written_is_removed_and_nothing_that_may_live(tmp_path, remove):
    """Process numbers mean nothing on another host, where only age tells."""
    file, here, never = tmp_path / "samples" / "a[1].npy", socket.gethostname(), 2**22  # above Linux's largest number
    RunFolder(tmp_path).begin(CONFIG)
    file.parent.mkdir()
    marks = {"dead": f"{never}@{here}", "alive": f"{os.getppid()}@{here}", "new": f"{never}@x.{here}"}
    parts = {name: file.with_name(f".a[1].npy.{mark}.part") for name, mark in marks.items()}
    parts |= {"old": file.with_name(f".a[1].npy.{os.getpid()}@elsewhere.part"), "own": part_of(file)}
    for name, part in parts.items():
        part.touch()
        if name != "new":
            os.utime(part, (time.time() - 2 * DAY,) * 2)
    remove(file)
    kept = {"alive", "new"} if file.exists() else {"alive", "new", "own"}  # its own it has just renamed
    assert {name for name, part in parts.items() if part.exists()} == kept


@contextlib.contextmanager
def another_user():
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("hidden", "act"),
    [
        ("config.json", RunFolder.open),
        ("checkpoints", lambda path: RunFolder.open(path).checkpoints),
        ("checkpoints/step-00000001.safetensors", lambda path: RunFolder.open(path).newest(CONFIG)),
        (".", RunFolder.open),
    ],
)
def test_files_of_another_user_are_named_and_not_taken_for_broken_or_missing(hidden, act):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        os.chmod(folder, 0o755)
        RunFolder(run).begin(CONFIG)
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "step-00000001.safetensors").write_bytes(b"0")
        (run / hidden).chmod(0)
        with another_user(), pytest.raises((DiskError, PermissionError), match=r"(?i)permission.* denied") as error:
            act(run)
        assert str((run / hidden).resolve()) in str(error.value)
        (run / hidden).chmod(0o755)


def test_a_finished_run_can_be_opened_to_train_where_nothing_can_be_written(monkeypatch, tmp_path):
    for _ in Trainer(CONFIG, tmp_path / "run"):
        pass
    monkeypatch.setattr("labkit.disk.open", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "")), raising=False)
    assert len(Trainer(CONFIG, tmp_path / "run")) == 0
    with pytest.raises(LabError, match=r"read-only; name a place elsewhere\. Earlier checkpoints are intact"):
        Run.open(tmp_path / "run").trainer(steps=4)


def test_too_many_open_files_are_not_taken_for_a_broken_store(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"a.npy: too many files are open; allow more by `ulimit -n"):
            load_array(tmp_path / "a.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"the disk is full \(\S+ \w+ free, 3 KiB needed\); make room"),
        (errno.EACCES, "permission is denied.* name another place"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EROFS, "read-only; name a place elsewhere"),
        (errno.ESTALE, "network does not answer; when it is back"),
        (errno.EIO, "when it is back, the same command goes on"),
        (errno.ENAMETOOLONG, "take a shorter one"),
        (errno.EISDIR, "Is a directory"),
    ],
)
def test_a_failure_of_the_disk_is_said_with_the_way_out(tmp_path, number, words):
    assert re.search(words, reason(tmp_path / "x", OSError(number, os.strerror(number)), 3 * 1024))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "it is a folder; name a file in it"),
        ("x.jpg", "a .png file is written"),
        ("closed/x.png", "cannot be written"),
    ],
)
def test_a_file_that_could_not_be_written_later_is_refused_at_once(tmp_path, monkeypatch, name, words):
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path / "closed")
    with pytest.raises(ConfigError, match=f"^out = .*{words}"):
        new_file(tmp_path / name, "out", ".png")
    assert new_file(tmp_path / "new" / "X.PNG", "out", ".png") == tmp_path / "new" / "X.PNG"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_any_editor_is_read(tmp_path, encoding):
    (tmp_path / "l.txt").write_bytes("é: digits --seed 1\r\ndigits # λ\r\n".encode(encoding))
    assert list(read_list(tmp_path / "l.txt")) == ["é", "digits"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_text_whose_encoding_must_be_guessed_is_refused(tmp_path, encoding):
    (tmp_path / "l.txt").write_bytes("digits\né: digits".encode(encoding))
    with pytest.raises(ConfigError, match=r"l.txt.* UTF-8; save the file as UTF-8"):
        read_text(tmp_path / "l.txt")


def test_long_names_of_a_grids_runs_are_cut_and_stay_distinct():
    axes = {"seed": range(2), "dataset": ["ä" * 150], "model": ["SiT-Nano/2"], "optimizer.lr": [1e-3, 2e-3]}
    names = list(grid(CONFIG, axes | {"flow.path": ["linear"]}))
    assert len({*names}) == 4 and all(len(name.encode()) <= LONGEST for name in names)
    with pytest.raises(ConfigError, match="of at most 200 bytes"):
        sweep({"x" * 201: CONFIG}, "out", Measures())
