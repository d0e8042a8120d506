"""The diffusion transformer of SiT, DiT and MeanFlow, which returns its features by value."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labkit.checks import require
from labkit.models.layers import Block, FinalLayer, LabelEmbedder, PatchEmbed, TimestepEmbedder, sincos_positions
from labkit.types import Prediction


class Transformer(nn.Module):
    """A diffusion transformer with adaLN-Zero conditioning on time and class.

    Args:
        depth, width, heads: number of blocks, hidden width H, attention heads.
        patch: side of a patch; T = (input_size / patch)² tokens.
        input_size, in_channels: side and channels of the (square) input.
        num_classes: classes 0 … num_classes − 1; the label ``num_classes`` is the null class.
        learn_sigma: twice the output channels in the last layer, as in the published models.
        keep_sigma: return the second half of them as well (DiT); else it is dropped (SiT).
        spans: embed the span s − t over which a velocity is averaged (MeanFlow).
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        patch: int,
        input_size: int,
        in_channels: int,
        num_classes: int,
        learn_sigma: bool,
        keep_sigma: bool = False,
        spans: bool = False,
    ) -> None:
        super().__init__()
        fits = input_size >= patch and input_size % patch == 0
        require(fits, "input_size", input_size, f"patches of {patch} do not divide it; take a patch that does")
        require(num_classes >= 1, "num_classes", num_classes, "take at least 1")
        self.patch, self.width, self.heads = patch, width, heads
        self.in_channels, self.num_classes = in_channels, num_classes
        self.side = input_size // patch
        self.checkpointing = False
        """Whether each block computes its activations again in the backward pass instead of keeping them."""
        self.out_channels = in_channels * (2 if keep_sigma else 1)
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.pos_embed = nn.Parameter(sincos_positions(width, self.side), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch, in_channels * (2 if learn_sigma else 1))
        self.span_embedder = TimestepEmbedder(width) if spans else None
        self._initialize()

    def _initialize(self) -> None:
        """Initialise: xavier for linears, N(0, 0.02) for labels and times, zeros for the rest but positions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        times = [e for e in (self.t_embedder, self.span_embedder) if e is not None]
        for table in (self.y_embedder.embedding_table, *(linear for e in times for linear in e.linears)):
            nn.init.normal_(table.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer"):
                nn.init.zeros_(parameter)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        return self.in_channels, self.side * self.patch, self.side * self.patch

    def check_blocks(self, blocks: Collection[int], name: str = "blocks") -> None:
        """Refuse numbers of blocks that this model does not have; ``name`` is the setting that holds them."""
        depth = len(self.blocks)
        fits = all(0 <= block < depth for block in blocks)
        require(fits, name, tuple(blocks), f"this model has {depth} blocks, numbered 0 to {depth - 1}")

    def forward(
        self,
        x: Float[Tensor, "b c n n"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"],
        taps: Collection[int] = (),
        span: Float[Tensor, " b"] | None = None,
    ) -> Prediction:
        """Predict from noised images.

        Args:
            x: x_t, (B, C, N, N).  t: times, (B,), in [0, 1] for SiT and MeanFlow, 0 … 999 for DiT.
            y: labels, ``num_classes`` for none, (B,).
            taps: blocks whose residual stream (B, T, H) is returned in ``Prediction.features``.
            span: s − t ≥ 0 of MeanFlow, (B,); None is 0, where the average velocity is the velocity at t.

        Returns:
            Prediction whose output has the shape of ``x``, or twice its channels (``keep_sigma``).
        """
        tokens, condition, features = self._run(x, t, y, taps, len(self.blocks), span)
        image = self._unpatchify(self.final_layer(tokens, condition))
        return Prediction(image[:, : self.out_channels], features)

    def features(
        self, x: Float[Tensor, "b c n n"], t: Float[Tensor, " b"], y: Int[Tensor, " b"], taps: Collection[int]
    ) -> dict[int, Float[Tensor, "b t h"]]:
        """Features as in ``forward``, without a span; nothing after the last tapped block is computed."""
        return self._run(x, t, y, taps, max(taps, default=-1) + 1)[2]

    def _run(
        self, x: Tensor, t: Tensor, y: Tensor, taps: Collection[int], depth: int, span: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Tokens after the first ``depth`` blocks, condition, and features of the tapped blocks."""
        self.check_blocks(taps, "taps")
        if x.shape[1:] != self.shape:  # else the sum with the positions fails, and names no setting
            sides = ", ".join(map(str, self.shape))
            raise ValueError(f"x has shape {tuple(x.shape)}; this model takes (B, {sides}).")
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(y)
        if self.span_embedder is not None:
            condition = condition + self.span_embedder(torch.zeros_like(t) if span is None else span)
        elif span is not None:
            raise ValueError("span is for MeanFlow models; this one predicts at one time.")
        features = {}
        for number, block in enumerate(self.blocks[:depth]):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, condition, use_reentrant=False)
            else:
                tokens = block(tokens, condition)
            if number in taps:
                features[number] = tokens
        return tokens, condition, features

    def _unpatchify(self, tokens: Float[Tensor, "b t o"]) -> Float[Tensor, "b c n n"]:
        grid = tokens.unflatten(1, (self.side, self.side)).unflatten(-1, (self.patch, self.patch, -1))
        return torch.einsum("bhwpqc->bchpwq", grid).flatten(4).flatten(2, 3)
