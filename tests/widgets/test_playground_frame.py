"""The playground in a notebook: a frame that needs no kernel, and its numbers as text where there is no browser."""

import html

from labkit.experiments.playground import Playground
from labkit.plots.explorer_page import explorer_page
from labkit.widgets import playground


def test_the_frame_holds_the_page_and_the_text_its_numbers():
    shown, contents = playground()._repr_mimebundle_(), Playground.load()
    assert html.escape(explorer_page(None, contents)) in shown["text/html"]
    assert "height: 1600px" in shown["text/html"] and len(shown["text/html"].encode()) < 1e6
    assert contents.describe() in shown["text/plain"] and "SiT-Nano/4, λ 0.5, τ 0.5" in shown["text/plain"]
    spread = contents.number("coarse-dispersive", contents.ages[-1], "mean_pairwise_distance")
    assert f"{spread:.3f}" in shown["text/plain"]
