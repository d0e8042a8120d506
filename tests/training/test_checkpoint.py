"""A checkpoint comes back as it was written, or is refused with its name and the remedy."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from labkit.training.checkpoint import FORMAT, Checkpoint, CheckpointError, read, replace_file, write

TENSORS = {"model.a": torch.arange(6.0).reshape(2, 3), "ema.a": torch.ones(2), "optimizer.step.a": torch.tensor(3.0)}
STATE = Checkpoint(3, 24, '{"λ": "quoted"}', TENSORS)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "step-00000003.safetensors"
    write(path, STATE)
    return path


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert a[:3] == b[:3]
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert tensor.dtype == b.tensors[name].dtype
        assert torch.equal(tensor, b.tensors[name])


def test_a_save_replaces_the_one_before_and_any_safetensors_reader_opens_it(file):
    """Views and parameters with gradient, too."""
    base = torch.arange(12.0).reshape(3, 4)
    newer = STATE._replace(step=4, tensors={"t": base.T, "row": base[1], "p": nn.Parameter(torch.ones(2))})
    write(file, newer)
    assert_same(read(file), newer)
    assert load_file(file).keys() == newer.tensors.keys()
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert STATE.part("optimizer.") == {"step.a": TENSORS["optimizer.step.a"]}


DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
SHAPES = st.lists(st.integers(0, 4), max_size=3)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(lambda n: n != "__metadata__")


@settings(max_examples=10)
@given(st.dictionaries(NAMES, st.tuples(DTYPES, SHAPES), max_size=4), st.integers(0), st.text(max_size=20))
def test_round_trip_of_anything(tmp_path_factory, shapes, step, config):
    tensors = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in shapes.items()}
    state = Checkpoint(step, 8 * step, config.encode(errors="ignore").decode(), tensors)
    path = tmp_path_factory.getbasetemp() / "anything.safetensors"
    write(path, state)
    assert_same(read(path), state)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(path))) as error:
        read(path)
    for word in words:
        assert word in str(error.value)


def test_cut_at_any_length_or_with_a_flipped_bit_in_any_byte_it_is_refused(file):
    """Every third byte of the header and of the data, in turn their lowest to their highest bit."""
    whole = file.read_bytes()
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place])
        refused(file, "cut or not a checkpoint")
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        refused(file)
    file.write_bytes(whole + b"\0")
    refused(file)


def test_changed_content_under_the_old_checksum_is_refused(file):
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    save_file(TENSORS, file, header)
    assert_same(read(file), STATE)
    for change in (
        {"model.a": torch.arange(6.0).reshape(3, 2)},
        {"ema.a": torch.ones(2).view(torch.int32)},
        {"more": torch.ones(1)},
        {"model.a": TENSORS["model.a"].nextafter(torch.tensor(9.0))},
    ):
        save_file(TENSORS | change, file, header)
        refused(file, "corrupted")
    for name in ("step", "samples", "config", "sha256"):
        save_file(TENSORS, file, header | {name: "4"})
        refused(file, "corrupted")
        save_file(TENSORS, file, {other: value for other, value in header.items() if other != name})
        refused(file, "corrupted")


def test_what_is_not_our_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    refused(path, "does not exist", "checkpoints")
    path.mkdir()
    refused(path, "cut or not a checkpoint")
    path.rmdir()
    for content in (b"", b"hello", b"PK\3\4" * 100, b"\0" * 100, b"\xff" * 100):
        path.write_bytes(content)
        refused(path, "cut or not a checkpoint")
    for header in (None, {"format": "labkit-checkpoint-2"}):
        save_file(TENSORS, path, header)
        refused(path, str(header and header["format"]), FORMAT)


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "x").write_text("in the way")
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "x" / "y" / "z"))):
        replace_file(tmp_path / "x" / "y" / "z", b"")
    assert (tmp_path / "x").read_text() == "in the way"
