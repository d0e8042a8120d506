"""The encoder of the digits teacher: a vision transformer small enough to be trained in a minute."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from labkit.models.layers import Attention, Mlp, sincos_positions


class EncoderBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to its input, without a condition."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden)

    def forward(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsEncoder(nn.Module):
    """8×8 digits in [-1, 1] → 16 tokens of 64 numbers, one for each 2×2 patch, row by row, after a last LayerNorm.

    Raises:
        ValueError: images of another shape.
    """

    width, tokens = 64, 16
    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, self.width)
        self.register_buffer("positions", sincos_positions(self.width, 4), persistent=False)
        self.blocks = nn.Sequential(*(EncoderBlock(self.width, heads=4, hidden=128) for _ in range(2)))
        self.norm = nn.LayerNorm(self.width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 16 64"]:
        if x.shape[1:] != (1, 8, 8):
            raise ValueError(f"x has shape {tuple(x.shape)}; the digits teacher takes digits, (B, 1, 8, 8).")
        patches = F.unfold(x.to(self.embed.weight.dtype), kernel_size=2, stride=2).transpose(1, 2)
        return self.norm(self.blocks(self.embed(patches) + self.positions))
