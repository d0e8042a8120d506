"""All four variants of the loss on one cloud of samples: which depend on its size, and which on its shape."""

import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Float as FloatTrait
from traitlets import HasTraits

from labkit.losses import dispersive_floor, dispersive_loss
from labkit.losses.dispersive import Variant, own_knobs
from labkit.metrics import effective_rank
from labkit.plots import PALETTE, figure
from labkit.runtime import generator
from labkit.widgets.panel import Panel, log_slider, slider

LOOKS: dict[Variant, tuple[str, str, str]] = {  # warm colours: depends on the size; cool: does not
    "infonce_l2": ("InfoNCE-L2", "dispersive", "solid"),
    "hinge": ("hinge", "gold", "dash"),
    "infonce_cosine": ("InfoNCE-cosine", "baseline", "solid"),
    "covariance": ("covariance", "sky", "dash"),
}


class FourLosses(HasTraits):
    """Scale s, stretch, τ and ε in; each variant's loss of the same samples out.

        z_i = s·(x_i + 1),   the cloud x with deviation σ_k ∝ (1 − 0.95·stretch²)^k along direction k, mean_k σ_k² = 1

    The cloud is whitened: without stretch it is exactly isotropic. Its mean, one deviation in every feature, is scaled
    with it. The directions are oblique to the features: the covariance variant standardises each feature, and a stretch
    along one would not change it.
    """

    scale = FloatTrait(0.5, min=1e-6)
    stretch = FloatTrait(0.4, min=0.0, max=1.0)
    tau = FloatTrait(0.5, min=1e-6)
    margin = FloatTrait(1.0, min=1e-6)
    BATCH, FEATURES, MEAN = 64, 32, 1.0
    SCALES = torch.logspace(-2, 1, 61)
    STRETCHES = torch.linspace(0, 1, 41)

    def __init__(self, **traits: float) -> None:
        super().__init__(**traits)
        draw = generator(17)
        cloud = torch.randn(self.BATCH, self.FEATURES, generator=draw, dtype=torch.float64)
        self._white = torch.linalg.qr(cloud - cloud.mean(dim=0)).Q * self.BATCH**0.5
        self._turn = torch.linalg.qr(torch.randn(self.FEATURES, self.FEATURES, generator=draw, dtype=torch.float64)).Q
        self._stretched = torch.stack([self.cloud(stretch, 1.0) for stretch in self.STRETCHES.tolist()])

    def cloud(self, stretch: float, scale: float, mean: float = MEAN) -> Float[Tensor, "batch features"]:
        """The samples; ``mean`` is the mean of each feature, in units of the scale."""
        deviations = (1 - 0.95 * stretch**2) ** torch.arange(self.FEATURES, dtype=torch.float64)
        deviations = deviations / deviations.square().mean().sqrt()
        return (scale * (self._white * deviations @ self._turn + mean)).float()

    def losses(self, variant: Variant, clouds: Float[Tensor, "n batch features"]) -> Float[Tensor, " n"]:
        """The variant's loss of each cloud."""
        return torch.func.vmap(lambda z: dispersive_loss(z, variant, **own_knobs(variant, self)))(clouds)

    def progress(self, variant: Variant, losses: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Position of a loss between its largest value (0) and its floor (1)."""
        most = {"infonce_l2": 0.0, "infonce_cosine": 1 / self.tau, "hinge": self.margin**2, "covariance": 1.0}[variant]
        floor = dispersive_floor(self.BATCH, variant, features=self.FEATURES, **own_knobs(variant, self))
        return (most - losses) / (most - floor)

    def against_scale(self, variant: Variant) -> Float[Tensor, " n"]:
        """The loss at each of ``SCALES``, at this stretch."""
        return self.losses(variant, self.SCALES[:, None, None] * self.cloud(self.stretch, 1.0))

    def against_stretch(self, variant: Variant) -> Float[Tensor, " n"]:
        """The loss at each of ``STRETCHES``, at this scale."""
        return self.losses(variant, self.scale * self._stretched)


def variants_panel(name: str = "variants", state: FourLosses | None = None) -> Panel:
    """Four losses against the size and against the shape of the same cloud."""
    state = state or FourLosses()
    title = "What does each of the four losses see: size, or arrangement?"
    panes = ["against the size of the cloud", "against its shape"]
    plot = figure(title, 1, 2, 430, horizontal_spacing=0.09, shared_yaxes=True, subplot_titles=panes)
    inks = [PALETTE[ink] for _, ink, _ in LOOKS.values()]
    dots = dict(color=inks, size=11, line=dict(color="white", width=1.5))
    for col, grid in ((1, state.SCALES), (2, state.STRETCHES)):
        pane = dict(row=1, col=col)
        for label, ink, dash in LOOKS.values():
            line = dict(color=PALETTE[ink], dash=dash, width=2.5)
            legend = dict(name=label, legendgroup=label, showlegend=col == 1)
            hover = f"{label}: loss %{{customdata:.4g}}, %{{y:.1%}} of the way<extra></extra>"
            plot.add_scatter(x=grid.tolist(), mode="lines", line=line, hovertemplate=hover, **legend, **pane)
        plot.add_scatter(mode="markers", marker=dots, showlegend=False, hoverinfo="skip", **pane)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    ranks = [f"{mark:g}<br>rank {effective_rank(state.cloud(mark, 1.0)):.0f}" for mark in marks]
    plot.update_xaxes(type="log", dtick=1, title_text="scale s (deviation of a feature)", row=1, col=1)
    plot.update_xaxes(tickvals=marks, ticktext=ranks, title_text="stretch, effective rank of the cloud", row=1, col=2)
    plot.update_yaxes(tickformat=".0%", range=[-0.04, 1.06], showticklabels=True)
    plot.update_yaxes(title_text="way from largest value (0 %) to floor", row=1, col=1)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.24, yanchor="top"), margin_r=30)
    drawn: dict[int, tuple[object, ...]] = {}

    def draw(state: FourLosses, plot: BaseFigure) -> str:
        for first, held, follow in ((0, state.stretch, state.against_scale), (5, state.scale, state.against_stretch)):
            for place, variant in enumerate(LOOKS, first):
                knobs = held, *own_knobs(variant, state).values()
                if drawn.get(place) != knobs:  # else only the marker moves along this curve
                    drawn[place], losses = knobs, follow(variant)
                    plot.data[place].y = state.progress(variant, losses).tolist()
                    plot.data[place].customdata = losses.tolist()
        here, doubled = (state.cloud(state.stretch, factor * state.scale) for factor in (1, 2))
        values = {}
        for variant in LOOKS:
            losses = state.losses(variant, torch.stack([here, doubled]))
            values[variant] = losses[0].item(), *state.progress(variant, losses).tolist()
        for dots, x in ((plot.data[4], state.scale), (plot.data[9], state.stretch)):
            dots.x, dots.y = [x] * 4, [now for _, now, _ in values.values()]
        return _sentence(state, here, values)

    controls = {
        "scale": log_slider("scale s", -2, 1),
        "stretch": slider("stretch", 0, 1, 0.01),
        "tau": log_slider("τ (InfoNCE only)", -1.3, 1.0),
        "margin": log_slider("margin ε (hinge only)", -1, 1),
    }
    alt = "Four losses of one cloud, each on the way from its largest value to its floor, against scale and stretch."
    finding = "Growing is enough for L2 and hinge; cosine and covariance see only how samples are arranged"
    return Panel(name, state, controls, plot, draw, alt, finding=finding)


def _sentence(state: FourLosses, here: Tensor, values: dict[Variant, tuple[float, float, float]]) -> str:
    """Each variant's loss and progress here, and its progress if the scale doubled, in words."""
    now = ", ".join(f"{LOOKS[v][0]} {way:.1%} (loss {loss:.3g})" for v, (loss, way, _) in values.items())
    moved = [f"{LOOKS[v][0]} to {after:.1%}" for v, (_, way, after) in values.items() if abs(after - way) >= 5e-4]
    would = f"move {' and '.join(moved)}, others by less than 0.05 %" if moved else "move none by as much as 0.05 %"
    centred = state.losses("infonce_cosine", state.cloud(state.stretch, state.scale, mean=0.0)[None])
    return (
        f"s = {state.scale:.2g}, stretch {state.stretch:.2f} (effective rank {effective_rank(here):.1f} of "
        f"{state.FEATURES}), τ = {state.tau:.2g}, ε = {state.margin:.2g}. From its largest value (0 %) to its floor "
        f"(100 %) each has come this far: {now}. Doubling s would {would}. Every feature has a mean of one deviation, "
        f"scaled with the cloud; without it InfoNCE-cosine would be at "
        f"{state.progress('infonce_cosine', centred).item():.1%}."
    )
