"""Layers of the diffusion transformer (Peebles & Xie 2023), with the names of the released checkpoints."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cut an image into p×p patches and project each: (B, C, N, N) → (B, T, H)."""

    def __init__(self, patch: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Float[Tensor, "b c n n"]) -> Float[Tensor, "b t h"]:
        # A matrix product and not cuDNN's convolution: that takes TF32 unasked, and adds gradients in any order.
        size = self.proj.kernel_size
        grid = x.unflatten(3, (-1, size[1])).unflatten(2, (-1, size[0]))
        patches = torch.einsum("bchpwq->bhwcpq", grid).flatten(1, 2).flatten(2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class TimestepEmbedder(nn.Module):
    """Sinusoid of t (256 numbers, cosines first, longest period 10,000) through a two-layer MLP."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.mlp if isinstance(layer, nn.Linear)]

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b h"]:
        angle = t[:, None].float() * self.frequencies
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linears[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """A table with a row for each class and a last one, number ``num_classes``, for the null class of guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, y: Int[Tensor, " b"]) -> Float[Tensor, "b h"]:
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def modulate(x: Float[Tensor, "b t h"], shift: Float[Tensor, "b h"], scale: Float[Tensor, "b h"]) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition c (adaLN-Zero).

    The gates start at zero, so at step 0 every block returns its input unchanged.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Float[Tensor, "b t h"], c: Float[Tensor, "b h"]) -> Float[Tensor, "b t h"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Tokens to patches of pixels, modulated by the condition; zero at the start."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = _norm(width)
        self.linear = nn.Linear(width, patch * patch * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Float[Tensor, "b t h"], c: Float[Tensor, "b h"]) -> Float[Tensor, "b t o"]:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def sincos_positions(width: int, side: int) -> Float[Tensor, "1 t h"]:
    """Fixed 2-D sine-cosine embedding of a side×side grid: a quarter each of sin(column), cos, sin(row), cos."""
    frequency = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()[None]
