"""A network for other programs: a file under the names of the released checkpoints, or a folder for diffusers.

diffusers' DiTTransformer2DModel computes a DiT as the released code does but for one thing: its frequencies of time are
10,000^(−k/127), those of DiT 10,000^(−k/128). With ``time_proj.downscale_freq_shift = 0`` the outputs are equal.
"""

import os
import shutil
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from labkit.checks import require
from labkit.disk import replace_file, user_path
from labkit.models.transformer import Transformer

README = """A DiT for diffusers:

    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained({folder!r})
    for block in model.transformer_blocks:  # the frequencies of time of DiT's own code, with which this was trained
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    noise_and_variance = model(x, timestep=t, class_labels=y).sample  # t from 0 to 999; label {classes} means none
"""


def save_official(network: Transformer, file: str | Path) -> Path:
    """Write the weights as safetensors under the names of the released checkpoints, which ``load_official`` reads.

    A SiT of the lab has no second half of output channels: SiT's own code opens it with ``learn_sigma=False``.

    Raises:
        ConfigError: a MeanFlow, whose second time embedder no released SiT or DiT has, or another suffix.
    """
    file = user_path(file, "out")
    require(file.suffix == ".safetensors", "out", str(file), "name a file that ends in .safetensors")
    spans = network.span_embedder is not None
    require(
        not spans, "model", "MeanFlow", "it has a second time embedder, for which no released checkpoint has a name"
    )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    replace_file(file, save(tensors, {"format": "pt"}))
    return file


def save_diffusers(network: Transformer, folder: str | Path) -> Path:
    """Write a DiT as a new folder that ``diffusers.DiTTransformer2DModel.from_pretrained`` opens.

    Its README.md holds the lines that open it, with the one setting that makes its outputs equal to ours.

    Raises:
        ConfigError: another model than a DiT, or a folder that exists.
    """
    from diffusers import DiTTransformer2DModel

    folder = user_path(folder, "out")
    require(not folder.exists(), "out", str(folder), "it exists already; name a new folder")
    dit = network.out_channels == 2 * network.in_channels and network.span_embedder is None
    require(dit, "format", "diffusers", "its class is for DiT alone, which predicts noise and variance; take official")
    model = DiTTransformer2DModel(
        num_attention_heads=network.heads,
        attention_head_dim=network.width // network.heads,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        num_layers=len(network.blocks),
        sample_size=network.side * network.patch,
        patch_size=network.patch,
        num_embeds_ada_norm=network.num_classes,
        norm_eps=1e-6,
    )
    model.load_state_dict(_renamed(network.state_dict(), len(network.blocks)))
    part = folder.with_name(f".{folder.name}.part")
    try:
        model.save_pretrained(part, safe_serialization=True)
        (part / "README.md").write_text(
            README.format(folder=str(folder), classes=network.num_classes), encoding="utf-8"
        )
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
EMBEDDERS = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
IN_A_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def _renamed(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The tensors under diffusers' names: there every block has the embedders, and the positions are computed."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = tensor
    renamed = {theirs: layers[ours] for ours, theirs in ENDS.items()}
    for n in range(depth):
        own, block = f"blocks.{n}.", f"transformer_blocks.{n}."
        renamed |= {block + theirs: layers[ours] for ours, theirs in EMBEDDERS.items()}
        renamed |= {block + theirs: layers[own + ours] for ours, theirs in IN_A_BLOCK.items()}
        qkv = {kind: tensor.chunk(3) for kind, tensor in layers[f"{own}attn.qkv"].items()}
        renamed |= {f"{block}attn1.to_{x}": {kind: t[i] for kind, t in qkv.items()} for i, x in enumerate("qkv")}
    return {f"{layer}.{kind}": tensor for layer, tensors in renamed.items() for kind, tensor in tensors.items()}
