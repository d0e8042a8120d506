"""λ over the steps of a training, painted with the pointer or given by numbers."""

import html

import anywidget
import ipywidgets as widgets
import traitlets

from labkit.checks import LabError
from labkit.widgets.live import LiveTraining
from labkit.widgets.panel import live_text, look, row

TOP = 2.0  # the largest λ that can be painted


class Painter(anywidget.AnyWidget):
    """A strip on which λ stands over the steps; a stroke of the pointer arrives as [first step, last step, λ]."""

    knots = traitlets.List().tag(sync=True)
    steps = traitlets.Int(1).tag(sync=True)
    top = traitlets.Float(TOP).tag(sync=True)
    stroke = traitlets.List().tag(sync=True)

    _esm = """
    const WIDTH = 1000, HEIGHT = 100;
    function render({ model, el }) {
      const make = (name, values) => {
        const node = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
        return node;
      };
      const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
        "aria-label": "λ over the steps; paint with the pointer, or give numbers below" });
      svg.style.cssText = "width:100%;height:72px;box-sizing:border-box;border:1px solid #d5d5d5;" +
        "touch-action:none;cursor:crosshair";
      const line = make("polyline", { fill: "none", stroke: "#D55E00", "stroke-width": 2,
        "vector-effect": "non-scaling-stroke" });
      svg.append(line);
      el.append(svg);
      const draw = () => {
        const steps = model.get("steps"), top = model.get("top"), knots = model.get("knots");
        const x = (step) => WIDTH * Math.min(Math.max(step / steps, 0), 1);
        const y = (lam) => HEIGHT * (1 - 0.94 * Math.min(lam / top, 1) - 0.03);
        const inner = knots.map(([step, lam]) => [x(step), y(lam)]);
        const points = [[0, inner[0][1]], ...inner, [WIDTH, inner[inner.length - 1][1]]];
        line.setAttribute("points", points.map((p) => p.join(",")).join(" "));
      };
      let last = null;
      const paint = (event) => {
        const box = svg.getBoundingClientRect(), steps = model.get("steps"), top = model.get("top");
        const share = (event.clientX - box.left) / box.width;
        const step = Math.round(steps * Math.min(Math.max(share, 0), 1));
        const height = (1 - (event.clientY - box.top) / box.height - 0.03) / 0.94;
        const lam = Math.round(20 * top * Math.min(Math.max(height, 0), 1)) / 20;
        const from = last === null ? step : last, width = Math.max(1, Math.round(steps / 100));
        model.set("stroke", [Math.min(from, step), Math.max(from, step, Math.min(from, step) + width), lam]);
        model.save_changes();
        last = step;
      };
      svg.addEventListener("pointerdown", (event) => {
        svg.setPointerCapture(event.pointerId);
        last = null;
        paint(event);
      });
      svg.addEventListener("pointermove", (event) => { if (event.buttons) paint(event); });
      model.on("change:knots", draw);
      model.on("change:steps", draw);
      draw();
    }
    export default { render };
    """


def painter(state: LiveTraining) -> widgets.Widget:
    """The strip, three numbers and a button that do the same, and one that takes the painting back."""
    strip = Painter()
    first = widgets.BoundedIntText(min=0, max=10**7, description="from step", **look("150px"))
    last = widgets.BoundedIntText(value=12, min=1, max=10**7, description="to before", **look("150px"))
    value = widgets.BoundedFloatText(min=0, max=1000, step=0.1, description="λ", **look("110px"))
    set_button = widgets.Button(description="Set λ there", layout=dict(width="auto"))
    clear = widgets.Button(description="As the slider says", layout=dict(width="auto"))
    title = widgets.HTML(f"λ over the steps, from 0 to {TOP:g}: paint it with the mouse, or give numbers")
    words = widgets.HTML()

    def show(change: object = None) -> None:
        with strip.hold_sync():
            strip.steps, strip.knots = state.steps, [list(knot) for knot in state.painted or [(0, state.lam)]]
        weight = state.weight()
        words.value = live_text(describe_weight(weight["lam"], weight["schedule"]))

    def paint(first_step: int, last_step: int, lam: float) -> None:
        try:
            state.paint(first_step, last_step, lam)
        except LabError as mistake:
            words.value = live_text(f"<b>{html.escape(str(mistake))}</b>")

    strip.observe(lambda change: paint(*change.new), "stroke")
    set_button.on_click(lambda _: paint(first.value, last.value, value.value))
    clear.on_click(lambda _: setattr(state, "painted", []))
    state.observe(show, ["painted", "lam", "steps"])
    show()
    return widgets.VBox([title, strip, row(first, last, value, set_button, clear, words)])


def describe_weight(lam: float, schedule: tuple[tuple[int, float], ...]) -> str:
    """λ over the steps as one sentence: steps and λ at each corner."""
    if not schedule:
        return f"λ = {lam:g} at all steps."
    corners = [f"{lam * factor:.2g} at step {step:,}" for step, factor in schedule]
    shown = corners if len(corners) <= 8 else [*corners[:4], "…", *corners[-3:]]
    return f"λ: {', '.join(shown)}."
