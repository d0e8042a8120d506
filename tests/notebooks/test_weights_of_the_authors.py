"""The cell of notebook 07 that opens the authors' weights, on a small file as their train.py saves one."""

import argparse

import pandas as pd
import pytest
import torch
from photos import image_folder, tiny_vae
from texts import FOLDER, cells

from labkit import build_model, datasets, load_official, recipes
from labkit.datasets import prepare
from labkit.metrics import effective_rank, feature_norm, mean_pairwise_distance
from labkit.training import Look, extract_features

(CELL,) = (cell for cell in cells(FOLDER / "07_models_and_scale.ipynb", "code") if cell.startswith("WEIGHTS = "))


@pytest.fixture
def shown():
    """Runs the cell with paths put in; returns the tables that it displays."""
    tables = []
    names = dict(pd=pd, torch=torch, recipes=recipes, load_official=load_official, display=tables.append)
    names |= dict(Look=Look, extract_features=extract_features)
    names |= dict(
        effective_rank=effective_rank, feature_norm=feature_norm, mean_pairwise_distance=mean_pairwise_distance
    )

    def run(weights, latents=""):
        source = CELL.replace('"dispersive": ""', f'"dispersive": "{weights}"')
        exec(source.replace('LATENTS = ""', f'LATENTS = "{latents}"'), names)
        return tables

    return run


def test_without_a_file_it_says_where_to_get_one(shown, capsys):
    assert shown("") == [] and "download one from the authors' repository" in capsys.readouterr().out


def checkpoint(file, *shape):
    """A network with random weights, saved as by the authors' train.py."""
    network = build_model("SiT-Nano/2", *shape).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights = network.state_dict()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"model": zeros, "ema": weights, "opt": {}, "args": argparse.Namespace(model="SiT-Nano/2")}, file)
    return network


def test_a_file_has_its_geometry_block_by_block(shown, tmp_path):
    network = checkpoint(tmp_path / "weights.pt")
    (table,) = shown(tmp_path / "weights.pt")
    values = table.data["dispersive"]
    assert "random numbers" in table.to_html()
    assert list(values.columns) == ["feature_norm", "mean_pairwise_distance", "effective_rank"] and len(values) == 4
    draw = torch.Generator().manual_seed(0)
    x, t, y = torch.randn(32, *network.shape, generator=draw), torch.full((32,), 0.5), torch.arange(32)
    with torch.no_grad():
        z = network.features(x, t, y, [2])[2]
    assert values["effective_rank"][2] == pytest.approx(effective_rank(z))
    assert values["feature_norm"][2] == pytest.approx(feature_norm(z))


def test_real_latents_are_its_inputs(shown, tmp_path):
    photos = image_folder(tmp_path / "photos", {"a": 3, "b": 3})
    vae = str(tiny_vae(tmp_path / "vae"))
    store = prepare(photos, tmp_path / "store", size=32, latents=vae, held_out=0, progress=False)
    network = checkpoint(tmp_path / "weights.pt", *datasets.load(str(store)).dimensions)
    (table,) = shown(tmp_path / "weights.pt", store)
    assert f"latents in {store}" in table.to_html()
    batch = datasets.load(str(store)).batch(torch.arange(6))
    assert network.shape == batch.x.shape[1:]
    norms = table.data["dispersive"]["feature_norm"]
    assert len(norms) == 4 and (norms > 0).all()
