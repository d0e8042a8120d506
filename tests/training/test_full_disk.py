"""A disk that fills up in the middle of training, for real: a full device, and a limit on the size of files."""

import resource
from pathlib import Path

import pytest
from tiny import leftovers, outcome, tiny, trained

from labkit import Run, Trainer
from labkit.training import CheckpointError


def full_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(
    "name", ["metrics.csv", "checkpoints/.step-00000010.safetensors.part", "samples/.step-00000010.png.part"]
)
def test_a_disk_that_fills_up(tmp_path, name):
    """One sentence that names the file; what was saved stays, and training goes on from it when there is room."""
    folder = tmp_path / "run"
    trainer = Trainer(tiny(), folder)
    with pytest.raises(CheckpointError, match="the disk is full") as error:
        for report in trainer:
            if report.step == 7:
                full_device(folder / name)
    assert str(folder / name.replace("/.step", "/step").removesuffix(".part")) in str(error.value)
    assert 5 in Run.open(folder).checkpoints
    assert not leftovers(folder)
    if name == "metrics.csv":  # the symbolic link stands for the table, whose rows were lost with it
        assert list(Run.open(folder).checkpoints) == [5, 8]
    else:
        assert outcome(trained(tiny(), folder)) == outcome(trained(tiny(), tmp_path / "straight"))


def test_a_limit_on_the_size_of_files(tmp_path):
    """The write fails half-way; the unfinished file goes, the checkpoint before stays."""
    folder = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = Trainer(tiny(), folder)
    try:
        with pytest.raises(CheckpointError, match=r"step-00000010\.safetensors: the disk is full"):
            for report in trainer:
                if report.step == 7:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(Run.open(folder).checkpoints) == [5]
    assert not leftovers(folder)
    assert outcome(trained(tiny(), folder)) == outcome(trained(tiny(), tmp_path / "straight"))
