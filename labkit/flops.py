"""Cost of a forward pass in closed form: T tokens of width H through D blocks, patches of p×p pixels.

    patches in          T·p²C·H
    time embedder       256·H + H²                 MeanFlow has two
    each of D blocks    4·T·H² (attention's four linears) + 2·T²·H (scores and mix) + 8·T·H² (MLP) + 6·H² (modulation)
    last layer          2·H² + T·H·p²·C_out

These are multiply-accumulates, the "Gflops" of the papers; a FLOP counter counts two for each. Like the counters, this
leaves out norms, activations and softmax, which cost little.
"""

from labkit.models import Transformer


def macs(network: Transformer) -> dict[str, int]:
    """Multiply-accumulates of one image's forward pass: ``linears``, ``attention``, ``modulation``, ``ends``."""
    tokens, width, depth = network.side**2, network.width, len(network.blocks)
    patch_in = network.x_embedder.proj.weight[0].numel()  # p²C
    patch_out = network.final_layer.linear.out_features  # p²·C_out
    hidden = len(network.get_parameter("blocks.0.mlp.fc1.weight"))
    embedders = [e for e in (network.t_embedder, network.span_embedder) if e is not None]
    time = sum(linear.weight.numel() for e in embedders for linear in e.linears)
    return {
        "linears": depth * tokens * (4 * width**2 + 2 * width * hidden),
        "attention": depth * 2 * tokens**2 * width,
        "modulation": depth * 6 * width**2 + 2 * width**2,
        "ends": tokens * width * (patch_in + patch_out) + time,
    }


def training_flops(network: Transformer, images: int = 1) -> int:
    """Floating-point operations of a training step: two for each MAC, one forward pass and twice that backward."""
    return 6 * sum(macs(network).values()) * images
