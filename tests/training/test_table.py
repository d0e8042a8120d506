"""The table of metrics: tidy, exact, readable at any moment, and whole again after a kill."""

from pathlib import Path

import pandas as pd
import pytest
from tiny import outcome, tiny, trained

from labkit import Run, Trainer
from labkit.training.folder import COLUMNS


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run with checkpoints at steps 3 and 4."""
    return trained(tiny(steps=4, save_every=3), tmp_path / "run")


def assert_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["step", "samples", "seconds", "name", "value"]
    assert table.step.dtype == table.samples.dtype == "int64"
    assert table.seconds.dtype == table.value.dtype == "float64"
    assert pd.api.types.is_string_dtype(table.name)


def test_the_table_is_tidy_and_exact(tmp_path):
    config = tiny(steps=7, log_every=3)
    reports = list(Trainer(config, tmp_path))
    table = Run.open(tmp_path).metrics()
    assert_tidy(table)
    logged = [r for r in reports if r.step in (3, 6, 7)]
    expected = [(r.step, 8 * r.step, name, value) for r in logged for name, value in r.values().items()]
    found = table[["step", "samples", "name", "value"]].itertuples(index=False, name=None)
    assert list(found) == [(*row[:3], pytest.approx(row[3], rel=1e-15)) for row in expected]
    geometry = ("dispersive", "feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity", "anisotropy")
    assert set(table.name) == {"total", "velocity", "dispersive"} | {f"block1.{measure}" for measure in geometry} | {
        *(f"velocity.t{part}" for part in range(5)),
        *("dispersive.gradient_cosine", "dispersive.gradient_ratio"),
    }
    assert (table.seconds > 0).all()
    assert table.seconds.is_monotonic_increasing


def test_the_table_before_the_first_row(tmp_path):
    Trainer(tiny(), tmp_path)
    for _ in range(2):
        assert_tidy(Run.open(tmp_path).metrics())
        assert len(Run.open(tmp_path).metrics()) == 0
        (tmp_path / "metrics.csv").unlink(missing_ok=True)


def test_the_table_is_readable_while_it_is_written(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    for report in trainer:
        table = Run.open(tmp_path).metrics()
        assert_tidy(table)
        assert table.step.max() == report.step


def test_the_table_cut_anywhere_gives_the_whole_rows(run):
    table, file = Run.open(run).metrics(), run / "metrics.csv"
    whole = file.read_bytes()
    for length in [*range(0, 90, 3), *range(90, len(whole), 17)]:
        file.write_bytes(whole[:length])
        rows = Run.open(run).metrics()
        assert_tidy(rows)
        pd.testing.assert_frame_equal(rows, table[: max(whole[:length].count(b"\n") - 1, 0)])


@pytest.mark.parametrize("length", [0, 4, 30, -300, -3, -1])
def test_a_cut_table_is_mended_on_resume(run, tmp_path, length):
    """A killed run's table can end anywhere after the rows of its newest checkpoint."""
    config = tiny(steps=6, save_every=3)
    file = run / "metrics.csv"
    whole = file.read_text()
    later = whole.index("\n4,") + 1
    (run / "checkpoints" / "step-00000004.safetensors").unlink()
    if length >= 0:
        file.write_text(whole[: later + length])
    else:
        file.write_text(whole[:length])
    list(Trainer(config, run))
    assert outcome(run) == outcome(trained(config, tmp_path / "straight"))


def test_seconds_go_on_from_where_they_were(run):
    before = Run.open(run).metrics().seconds.max()
    trainer = Trainer(tiny(steps=6, save_every=3), run)
    assert trainer.seconds == pytest.approx(before, abs=1e-3) and before > 0  # the table rounds to milliseconds
    began = trainer.seconds
    assert all(report.seconds > began for report in trainer)


def test_columns_are_the_documented_ones():
    assert list(COLUMNS) == ["step", "samples", "seconds", "name", "value"]
