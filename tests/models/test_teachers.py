"""The teachers: frozen whatever happens around them, true about their price, and no kin of the measuring network."""

import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from labkit.checks import ConfigError
from labkit.datasets import digits
from labkit.losses.alignment import repa_loss
from labkit.metrics import DigitsClassifier
from labkit.models import teachers
from labkit.models.encoder import DigitsEncoder
from labkit.models.projector import Projector
from labkit.models.teachers import DigitsTeacher, DinoTeacher, TeacherCost, load_teacher
from labkit.training.teacher import cosine_by_place, probes

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def digits_teacher():
    return DigitsTeacher.load()


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 70, "patch_size": 14}


@pytest.fixture(params=["dinov2", "dinov2_with_registers"])
def tiny(request, tmp_path):
    """A folder with a tiny DINOv2 whose every weight is random."""
    config = transformers.AutoConfig.for_model(request.param, **TINY)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def record():
    with safe_open(teachers.data_dir() / teachers.FILE, framework="pt") as file:
        return json.loads(file.metadata()["record"])


# --- the digits teacher


def test_it_turns_digits_into_sixteen_tokens_one_a_patch(digits_teacher):
    tokens = digits_teacher(digits("held_out").x[:5])
    assert tokens.shape == (5, digits_teacher.tokens, digits_teacher.width) == (5, 16, 64)
    assert isinstance(load_teacher("digits"), DigitsTeacher)
    assert torch.equal(load_teacher("digits")(digits("held_out").x[:5]), tokens)


def test_tokens_stand_row_by_row():
    encoder = DigitsEncoder()
    encoder.blocks = nn.Identity()  # each token sees its own patch only
    blank, marked = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    marked[..., 2:4, 6:8] = 1  # second row, last column
    changed = (encoder(marked) - encoder(blank)).abs().amax(dim=2)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 4 + 3]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16), (2, 1, 8, 4)])
def test_images_that_are_no_digits_are_refused(digits_teacher, shape):
    with pytest.raises(ValueError, match=r"x has shape \(2, .*digits teacher takes digits, \(B, 1, 8, 8\)"):
        digits_teacher(torch.zeros(shape))


def test_other_floating_point_types_are_welcome(digits_teacher):
    x = digits("held_out").x[:5]
    assert torch.equal(digits_teacher(x.double()), digits_teacher(x))
    assert digits_teacher(x.bfloat16()).dtype == torch.float32


def test_its_record_is_true(digits_teacher):
    told = record()
    assert TeacherCost(**told["cost"]) == digits_teacher.cost
    weights = load_file(teachers.data_dir() / teachers.FILE)
    assert digits_teacher.cost.parameters == sum(w.numel() for w in weights.values()) <= 200_000
    assert digits_teacher.cost.images == len(digits("train")) == 1297
    assert 1 < digits_teacher.cost.seconds <= 60
    assert told["seed"] == 0
    assert {"processor", "torch", "commit"} <= told["machine"].keys()
    assert (teachers.data_dir() / teachers.FILE).stat().st_size < 1_000_000


def test_its_probes_are_measured_again(digits_teacher):
    told = record()["probes"]["teacher"]
    assert probes(digits_teacher) == pytest.approx(told, abs=0.0041)  # two digits of 500
    untrained, pixels = record()["probes"]["untrained"], record()["probes"]["pixels"]
    assert told["pooled"] > untrained["pooled"] + 0.05
    assert told["all_tokens"] > pixels
    assert cosine_by_place(digits_teacher) == pytest.approx(record()["probes"]["cosine_by_place"], abs=1e-4)


def test_it_shares_nothing_with_the_measuring_network(digits_teacher):
    classifier = DigitsClassifier.load()
    models = digits_teacher, classifier
    kinds = [{type(m) for m in model.modules() if [*m.parameters(recurse=False)]} for model in models]
    assert nn.Conv2d in kinds[1]
    assert kinds[0] & kinds[1] == {nn.Linear}  # a transformer, and a convolutional network
    ours, theirs = (dict(model.named_parameters()) for model in models)
    assert not {p.data_ptr() for p in ours.values()} & {p.data_ptr() for p in theirs.values()}
    assert not {p.shape for p in ours.values() if p.ndim > 1} & {p.shape for p in theirs.values() if p.ndim > 1}


def test_each_load_gives_a_module_of_its_own():
    first = DigitsTeacher.load()
    with torch.no_grad():
        first.encoder.embed.weight.zero_()
    assert DigitsTeacher.load().encoder.embed.weight.any()


def test_missing_weights_are_missed_by_name_with_two_remedies(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "data_dir", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"digits_teacher.* is missing.*git.*build_teacher"):
        load_teacher("digits")


# --- frozen


class Student(nn.Module):
    """Something with a teacher inside, trained to point where it points."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher
        self.projector = Projector(4, 32, teacher.width)

    def forward(self, x):
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return repa_loss(self.projector(patches), self.teacher(x))


def test_training_what_holds_it_changes_the_projector_and_not_the_teacher(digits_teacher):
    student, x = Student(digits_teacher), digits("train").x[:32]
    before = {name: p.clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01, weight_decay=0.1)
    student.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = student(x)
        loss.backward()
        optimizer.step()
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if name.startswith("projector.")}
    assert student(x) < loss


def test_it_stays_in_evaluation_mode_and_lets_no_gradient_pass(digits_teacher):
    student = Student(digits_teacher).train()
    assert student.training
    assert not any(module.training for module in student.teacher.modules())
    assert not any(p.requires_grad for p in student.teacher.parameters())
    tokens = student.teacher(torch.randn(2, 1, 8, 8, requires_grad=True))
    assert not tokens.requires_grad
    assert not tokens.is_inference()  # a loss may save it for its backward pass


def test_a_dinov2_is_frozen_too(tiny):
    teacher = DinoTeacher(str(tiny), grid=2).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    assert not teacher(x).requires_grad
    assert torch.equal(teacher(x), teacher(x))


# --- DINOv2


def independently(x, size):
    """An image in [-1, 1] as DINOv2 wants it: numpy's arithmetic, and bicubic weights written out as a matrix."""
    x = np.repeat(x.double().numpy(), 3 // x.shape[1], axis=1)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (x * 0.5 + 0.5 - mean[:, None, None]) / deviation[:, None, None]
    return np.einsum("ip,bcpq,jq->bcij", bicubic(x.shape[2], size), x, bicubic(x.shape[3], size))


def bicubic(n, size):
    """(size, n): Keys' cubic convolution with a = −0.75 at pixel centres, edges repeated."""
    weights = np.zeros((size, n))
    for i in range(size):
        centre = (i + 0.5) * n / size - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            d, a = abs(centre - tap), -0.75
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(tap, 0), n - 1)] += near if d <= 1 else far
    return weights


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 1, 8, 8), (1, 3, 40, 90)])
@pytest.mark.parametrize("size", [70, 56])  # the grid of its position embeddings, and one they are interpolated to
def test_its_tokens_are_transformers_own(tiny, shape, size):
    x = torch.rand(shape) * 2 - 1
    teacher = DinoTeacher(str(tiny), grid=size // 14)
    model = transformers.AutoModel.from_pretrained(tiny).eval()
    with torch.no_grad():
        all_tokens = model(pixel_values=torch.from_numpy(independently(x, size)).float()).last_hidden_state
    grid = size // 14
    assert teacher(x).shape == (shape[0], grid**2, 32) == (shape[0], teacher.tokens, teacher.width)
    assert all_tokens.shape[1] == grid**2 + (1 if model.config.model_type == "dinov2" else 5)
    torch.testing.assert_close(teacher(x), all_tokens[:, -(grid**2) :], rtol=1e-3, atol=1e-3)


def test_the_default_is_repas_224_pixels_and_256_tokens(tiny):
    teacher = load_teacher(str(tiny))
    assert (teacher.size, teacher.tokens) == (224, 256)
    assert teacher(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 32)


def test_its_price_is_counted_and_told(tiny):
    cost = DinoTeacher(str(tiny)).cost
    assert cost.parameters == sum(w.numel() for w in load_file(tiny / "model.safetensors").values())
    assert cost.images == 142_000_000
    assert math.isnan(cost.seconds)
    for fact in (str(tiny), f"{cost.parameters:,} parameters", "142,000,000 images", "1.1 billion", "unknown time"):
        assert fact in cost.describe()
    assert DinoTeacher(str(tiny), images=7).cost.images == 7


def test_the_digits_teachers_price_is_told(digits_teacher):
    told, cost = digits_teacher.cost.describe(), digits_teacher.cost
    for fact in (f"{cost.parameters:,} parameters", "on 1,297 images", f"{cost.seconds:.0f} core-seconds"):
        assert fact in told
    assert "billion" not in told


@pytest.mark.parametrize("grid", [0, -1, 16.0, True, None])
@pytest.mark.usefixtures("unchecked")
def test_a_size_that_the_patch_does_not_divide_is_refused(tiny, grid):
    with pytest.raises(ConfigError, match=r"^grid = .*whole number of tokens"):
        DinoTeacher(str(tiny), grid=grid)


def test_latents_are_no_images(tiny):
    with pytest.raises(ValueError, match=r"4 channels.*images of 1 or 3, not latents"):
        DinoTeacher(str(tiny), grid=2)(torch.zeros(1, 4, 8, 8))


# --- weights that cannot be had


def refusal(source):
    with pytest.raises(ConfigError) as caught:
        load_teacher(str(source))
    message = str(caught.value)
    assert message.startswith(f"teacher = {str(source)!r} ")
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no traceback of the loader's
    return message


@pytest.mark.parametrize("source", ["facebook/dinov2-base", "no/such/place", "/no/such/place", "nothing of the kind"])
def test_a_source_out_of_reach_says_what_to_give_instead(source):
    assert "folder of downloaded weights" in refusal(source)


def test_a_folder_without_a_model_says_so(tmp_path):
    assert "folder of downloaded weights" in refusal(tmp_path)


def test_a_folder_with_a_config_and_no_weights_says_so(tiny):
    (tiny / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(tiny)


def test_pickled_weights_are_not_opened(tiny):
    weights = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    torch.save(weights, tiny / "pytorch_model.bin")
    assert "model.safetensors" in refusal(tiny)


def test_a_torn_file_says_so(tiny):
    file = tiny / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded" in refusal(tiny)


def test_weights_that_are_missing_in_the_file_are_not_left_random(tiny):
    weights = load_file(tiny / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    assert "1 of its weights are missing in the file (layernorm.weight)" in refusal(tiny)


def test_another_kind_of_model_is_refused(tmp_path):
    config = transformers.AutoConfig.for_model("vit", hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    assert "holds a vit; name a DINOv2" in refusal(tmp_path)


def test_without_transformers_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install transformers" in refusal("facebook/dinov2-base")
    assert isinstance(load_teacher("digits"), DigitsTeacher)  # which needs no such package


# --- the projector


def test_the_projector_is_repas():
    projector = Projector(48, 2048, 768)
    assert [type(layer) for layer in projector] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert {name: tuple(p.shape) for name, p in projector.named_parameters()} == {
        "0.weight": (2048, 48),
        "0.bias": (2048,),
        "2.weight": (2048, 2048),
        "2.bias": (2048,),
        "4.weight": (768, 2048),
        "4.bias": (768,),
    }
    assert not any(layer.bias.any() for layer in projector if isinstance(layer, nn.Linear))
    assert projector[2].weight.abs().max() <= math.sqrt(6 / 4096)
    assert projector(torch.randn(2, 16, 48)).shape == (2, 16, 768)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["features", "hidden", "width"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_an_impossible_width_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} = {value} .*whole number"):
        Projector(**{"features": 4, "hidden": 8, "width": 4, name: value})
