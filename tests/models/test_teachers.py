"""The teachers: frozen whatever happens around them, with a true cost, and unrelated to the network that judges."""

import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photos import tiny_dino
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from labkit import runtime
from labkit.checks import ConfigError
from labkit.datasets import digits
from labkit.metrics import DigitsClassifier
from labkit.models import teachers
from labkit.models.encoder import DigitsEncoder
from labkit.models.projector import Projector
from labkit.models.teachers import DigitsTeacher, DinoTeacher, TeacherCost, load_teacher
from labkit.training.teacher import cosine_by_place, probes

transformers = pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def digits_teacher():
    return DigitsTeacher.load()


@pytest.fixture
def tiny(tmp_path):
    return tiny_dino(tmp_path / "tiny")


# --- the digits teacher


def test_digits_become_sixteen_tokens_in_float32(digits_teacher):
    x = digits("held_out").x[:5]
    tokens = digits_teacher(x)
    assert tokens.shape == (5, digits_teacher.tokens, digits_teacher.width) == (5, 16, 64)
    assert torch.equal(load_teacher("digits")(x.double()), tokens)
    assert digits_teacher(x.bfloat16()).dtype == torch.float32


def test_tokens_are_ordered_row_by_row():
    encoder = DigitsEncoder()
    encoder.blocks = nn.Identity()  # each token depends on its own patch only
    blank, marked = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    marked[..., 2:4, 6:8] = 1  # second row, last column
    changed = (encoder(marked) - encoder(blank)).abs().amax(dim=2)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 4 + 3]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 4)])
def test_images_that_are_no_digits_are_refused(digits_teacher, shape):
    with pytest.raises(ValueError, match=r"x has shape \(2, .*\(B, 1, 8, 8\)"):
        digits_teacher(torch.zeros(shape))


def test_its_cost_and_probes_are_those_of_its_record(digits_teacher):
    with safe_open(runtime.shipped_path(teachers.FILE), framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    cost = digits_teacher.cost
    assert cost == TeacherCost(**record["cost"])
    assert cost.parameters == sum(w.numel() for w in load_file(runtime.shipped_path(teachers.FILE)).values())
    assert cost.images == len(digits("train"))
    for fact in (f"{cost.parameters:,} parameters", "on 1,297 images", f"{cost.seconds:.0f} core-seconds"):
        assert fact in cost.describe()
    measured = record["probes"]
    assert probes(digits_teacher) == pytest.approx(measured["teacher"], abs=0.0041)  # two digits of 500
    assert measured["teacher"]["pooled"] > measured["untrained"]["pooled"] + 0.05
    assert measured["teacher"]["all_tokens"] > measured["pixels"]
    assert cosine_by_place(digits_teacher) == pytest.approx(measured["cosine_by_place"], abs=1e-4)


def test_it_shares_nothing_with_the_classifier(digits_teacher):
    models = digits_teacher, DigitsClassifier.load()
    kinds = [{type(m) for m in model.modules() if [*m.parameters(recurse=False)]} for model in models]
    assert nn.Conv2d in kinds[1]
    assert kinds[0] & kinds[1] == {nn.Linear}  # a transformer, and a convolutional network
    shapes = [{p.shape for p in model.parameters() if p.ndim > 1} for model in models]
    assert not shapes[0] & shapes[1]


def test_each_load_gives_a_module_of_its_own():
    with torch.no_grad():
        DigitsTeacher.load().encoder.embed.weight.zero_()
    assert DigitsTeacher.load().encoder.embed.weight.any()


def test_a_missing_file_is_named_with_two_remedies(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"digits_teacher.* is missing.*git.*build_teacher"):
        load_teacher("digits")


@pytest.mark.parametrize("kind", ["digits", "dino"])
def test_a_teacher_stays_in_evaluation_mode_and_passes_no_gradient(kind, digits_teacher, tiny):
    teacher = digits_teacher if kind == "digits" else DinoTeacher(str(tiny), grid=2)
    assert nn.ModuleList([teacher]).train().training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    tokens = teacher(torch.randn(2, 1, 8, 8, requires_grad=True))
    assert not tokens.requires_grad
    assert not tokens.is_inference()  # a loss may save it for its backward pass


# --- DINOv2


def prepared(x, size):
    """An image in [-1, 1] as DINOv2 takes it, resized by bicubic samples at the centres of the new pixels."""
    mean, deviation = (torch.tensor(c)[:, None, None] for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    colours = (x.expand(-1, 3, -1, -1) * 0.5 + 0.5 - mean) / deviation
    centres = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(colours, centres, mode="bicubic", padding_mode="border", align_corners=False)


@pytest.mark.parametrize(("kind", "others"), [("dinov2", 1), ("dinov2_with_registers", 5)])
@pytest.mark.parametrize("grid", [5, 4])  # the grid of its position embeddings, and one they are interpolated to
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 3, 40, 90)])
def test_tokens_are_those_of_transformers(tmp_path, kind, others, grid, shape):
    x, folder = torch.rand(shape) * 2 - 1, tiny_dino(tmp_path, kind)
    teacher = DinoTeacher(str(folder), grid, antialias=False)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        all_tokens = model(pixel_values=prepared(x, 14 * grid)).last_hidden_state
    assert teacher(x).shape == (shape[0], grid**2, 32) == (shape[0], teacher.tokens, teacher.width)
    assert all_tokens.shape[1] == grid**2 + others
    torch.testing.assert_close(teacher(x), all_tokens[:, -(grid**2) :], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (5, 2), (4, 7)])
def test_the_position_embedding_is_resampled_with_antialiasing(side, grid):
    """As REPA's authors do, and as Pillow resizes images of floating-point numbers."""
    positions = torch.randn(1, 1 + side**2, 3)
    actual = teachers.resampled(positions, grid)
    assert torch.equal(actual[:, 0], positions[:, 0])  # the class token has no place
    for ours, theirs in zip(actual[0, 1:].T.numpy(), positions[0, 1:].T.reshape(3, side, side).numpy(), strict=True):
        image = Image.fromarray(theirs).resize((grid, grid), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours.reshape(grid, grid), image, rtol=1e-4, atol=1e-5)


def test_a_teacher_runs_on_the_resampled_embedding(tiny):
    x, as_repa, plain = torch.rand(2, 3, 40, 40), DinoTeacher(str(tiny), 2), DinoTeacher(str(tiny), 2, antialias=False)
    embeddings = as_repa.model.embeddings
    taken = embeddings.interpolate_pos_encoding(torch.zeros(1, 5, 32), 28, 28)
    assert torch.equal(taken, embeddings.position_embeddings)
    assert not torch.allclose(as_repa(x), plain(x), atol=1e-3)
    assert as_repa.cost.parameters == plain.cost.parameters


def test_defaults_are_repas_grid_and_the_published_cost(tiny):
    teacher = load_teacher(str(tiny))
    cost = teacher.cost
    assert (teacher.size, teacher.tokens, cost.images) == (224, 256, 142_000_000)
    assert cost.parameters == sum(w.numel() for w in load_file(tiny / "model.safetensors").values())
    assert math.isnan(cost.seconds)
    for fact in (str(tiny), f"{cost.parameters:,} parameters", "142,000,000 images", "1.1 billion", "unknown time"):
        assert fact in cost.describe()


def test_impossible_grids_and_latents_are_refused(tiny, unchecked):
    for grid in (0, 16.0):
        with pytest.raises(ConfigError, match=rf"^grid = {grid} .*whole number"):
            DinoTeacher(str(tiny), grid=grid)
    with pytest.raises(ValueError, match=r"4 channels.*not latents"):
        DinoTeacher(str(tiny), grid=2)(torch.zeros(1, 4, 8, 8))


# --- weights that cannot be loaded


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def incomplete(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def another_kind(folder):
    config = transformers.AutoConfig.for_model("vit", hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("facebook/dinov2-base", "folder of downloaded weights"),
        ("/no/such/place", "folder of downloaded weights"),
        (lambda folder: (folder / "config.json").unlink(), "folder of downloaded weights"),
        (pickled, "model.safetensors"),
        (incomplete, "(layernorm.weight)"),
        (another_kind, "vit; name a DINOv2"),
    ],
)
def test_weights_that_cannot_be_loaded_are_refused_in_one_line(tiny, change, message):
    source = change if isinstance(change, str) else str(tiny)
    if not isinstance(change, str):
        change(tiny)
    with pytest.raises(ConfigError) as error:
        load_teacher(source)
    assert str(error.value).startswith(f"teacher = {source!r} ")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None  # no traceback of the loader's


def test_without_transformers_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="pip install transformers"):
        load_teacher("facebook/dinov2-base")
    assert isinstance(load_teacher("digits"), DigitsTeacher)  # which needs no such package


def test_the_projector_starts_as_repas():
    projector = Projector(48, 2048, 768)
    assert not any(layer.bias.any() for layer in projector if isinstance(layer, nn.Linear))
    assert projector[2].weight.abs().max() <= math.sqrt(6 / 4096)
