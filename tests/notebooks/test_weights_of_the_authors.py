"""The cell of notebook 07 that opens the authors' weights, on a small file as their train.py saves one."""

import argparse
import re

import pandas as pd
import pytest
import torch
from test_notebooks import FOLDER, cells

from labkit import build_model, load_official, recipes
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

    def run(weights):
        source, count = re.subn(r'"dispersive": ""', f'"dispersive": "{weights}"', CELL)
        assert count == 1
        exec(source, names)
        return tables

    return run


def test_without_a_file_it_says_where_to_get_one(shown, capsys):
    assert shown("") == [] and "download one from the authors' repository" in capsys.readouterr().out


def test_a_file_has_its_geometry_block_by_block(shown, tmp_path):
    network = build_model("SiT-Nano/2")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights, file = network.state_dict(), tmp_path / "weights.pt"
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"model": zeros, "ema": weights, "opt": {}, "args": argparse.Namespace(model="SiT-Nano/2")}, file)
    (table,) = shown(file)
    values = table.data["dispersive"]
    assert "random numbers" in table.to_html()
    assert list(values.columns) == ["feature_norm", "mean_pairwise_distance", "effective_rank"] and len(values) == 4
    draw = torch.Generator().manual_seed(0)
    x, t, y = torch.randn(32, *network.shape, generator=draw), torch.full((32,), 0.5), torch.arange(32)
    with torch.no_grad():
        z = network.eval().features(x, t, y, [2])[2]
    assert values["effective_rank"][2] == pytest.approx(effective_rank(z))
    assert values["feature_norm"][2] == pytest.approx(feature_norm(z))
