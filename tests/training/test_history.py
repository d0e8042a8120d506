"""A table that is read while another process writes it."""

import os

import pytest
from tiny import tiny

from labkit.training.folder import RunFolder
from labkit.training.history import History, duration


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run").begin(tiny())
    folder.rewind(0)
    return folder


def log(folder: RunFolder, *steps: int, seconds: float = 1.0) -> None:
    for step in steps:
        folder.log(step, 8 * step, seconds * step, {"velocity": 1 / step, "block1.dispersive": -step})


def history(folder: RunFolder) -> History:
    return History(folder.path / "metrics.csv")


def test_it_grows_with_the_table(folder):
    reader = history(folder)
    reader.refresh()
    assert (reader.step, reader.rate, len(reader.curve("velocity").steps)) == (0, None, 0)
    log(folder, 1, 2)
    reader.refresh()
    before = reader.version
    assert reader.curve("velocity").steps.tolist() == [1, 2] and reader.curve("velocity").values.tolist() == [1, 0.5]
    reader.refresh()
    assert reader.version == before, "nothing new"
    log(folder, 4)
    reader.refresh()
    assert reader.curve("block1.dispersive").values.tolist() == [-1, -2, -4]
    assert reader.version > before and reader.step == 4


def test_only_new_bytes_are_read_and_half_a_line_waits_for_its_end(folder):
    """Bytes that were read before are overwritten here, at the same length."""
    reader = history(folder)
    log(folder, 1, 2)
    reader.refresh()
    with open(reader.table, "r+b") as file:
        file.write(b"x" * os.fstat(file.fileno()).st_size + b"3,24,3.0,velo")
        file.flush()
        reader.refresh()
        assert reader.step == 2
        file.write(b"city,0.25\n")
    reader.refresh()
    assert reader.curve("velocity").steps.tolist() == [1, 2, 3]
    assert reader.curve("velocity").values.tolist() == [1, 0.5, 0.25]


def test_a_table_that_a_resumed_run_has_rewritten_is_read_from_its_start(folder):
    reader = history(folder)
    log(folder, *range(1, 10))
    reader.refresh()
    folder.rewind(5)
    log(folder, 6)
    reader.refresh()
    assert reader.curve("velocity").steps.tolist() == [1, 2, 3, 4, 5, 6]


def test_the_rate_is_that_of_the_last_minutes(folder):
    reader = history(folder)
    log(folder, 1, 2)
    reader.refresh()
    assert reader.rate == pytest.approx(1)
    folder.log(1000, 8000, 1000.0, {"velocity": 0.1})
    folder.log(1100, 8800, 1200.0, {"velocity": 0.1})
    reader.refresh()
    assert reader.rate == pytest.approx(0.5)


def test_a_long_curve_is_thinned_and_keeps_its_ends(folder):
    reader = history(folder)
    log(folder, *range(1, 501))
    reader.refresh()
    few = reader.curve("velocity").thinned(100)
    assert len(few.steps) == 100 and few.steps[0] == 1 and few.steps[-1] == 500
    assert few.values.tolist() == pytest.approx((1 / few.steps).tolist())
    assert reader.curve("velocity").thinned(500).steps.tolist() == [*range(1, 501)]


def test_durations_have_two_units_at_most():
    texts = {-1: "0 s", 0.4: "0 s", 89: "89 s", 90: "2 min", 5000: "83 min", 12000: "3 h 20 min"}
    texts |= {3600 * 47.9: "47 h 54 min", 3600 * 52: "2 days 4 h"}
    assert {seconds: duration(seconds) for seconds in texts} == texts
