"""The panel of scale: each control changes the panes that it concerns and no others; figure and words agree."""

import pytest
from traitlets import TraitError

from labkit.checks import ConfigError
from labkit.scale import cost, memory
from labkit.widgets.scale import MINE, OWN, ROOM, Scale, amount, scale_panel, span

ALL = {"parameters", "macs", "bytes", "days"}


@pytest.fixture
def panel():
    return scale_panel(Scale(5e10, 16.0))


def parts(state):
    return dict(parameters=state.cost.parameters, macs=state.cost.macs, bytes=state.bytes(), days=state.days())


@pytest.mark.parametrize(
    ("trait", "value", "changed"),
    [
        ("size", "XL", ALL),
        ("patch", 8, ALL),  # among the parameters, the ends and the positions
        ("family", "MeanFlow", ALL),
        ("family", "DiT", set()),
        ("batch", 64, {"bytes"}),
        ("precision", "float32", {"bytes"}),
        ("machine", MINE, set()),
        ("tflops", 7.0, {"days"}),
        ("utilisation", 0.8, {"days"}),
    ],
)
def test_every_control_changes_what_it_should(panel, trait, value, changed):
    before, bars = parts(panel.state), [list(b.x) for b in panel.figure.data]
    panel.controls[trait].value = value
    after = parts(panel.state)
    assert {pane for pane in after if before[pane] != after[pane]} == changed
    assert {pane for pane, b, a in zip(after, bars, panel.figure.data, strict=True) if b != list(a.x)} == changed


def test_the_bars_are_the_parts_and_their_sum(panel):
    state, (*bars, days) = panel.state, panel.figure.data
    for bar, values in zip(bars, (state.cost.parameters, state.cost.macs, state.bytes()), strict=True):
        assert list(bar.x) == [sum(values.values()), *values.values()] and bar.y[0] == "all"
    assert state.bytes() == memory(cost("SiT-B/2"), 32, "bfloat16")
    assert list(days.x) == list(state.days().values())
    assert [name.partition(",")[0] for name in state.rates()] == list(days.y)
    assert f"{sum(state.cost.parameters.values()):,} parameters" in panel.sentence.value


@pytest.mark.parametrize(
    ("machine", "room", "origin"),
    [
        (MINE, 16, "measured just now"),
        ("RTX 4090", 24, "datasheet peak"),
        ("A100 SXM", 80, "datasheet peak"),
        (OWN, None, "your value"),
    ],
)
def test_the_chosen_machine_stands_out_and_its_memory_is_drawn_and_judged(panel, machine, room, origin):
    state = panel.state
    state.size, state.batch, state.machine = "XL", 128, machine  # some 65 GB
    inks = dict(zip(state.rates(), panel.figure.data[3].marker.color, strict=True))
    chosen = inks.pop(machine)
    assert len({*inks.values()}) == 1 and chosen not in inks.values()
    line, held = panel.figure.layout.shapes[0], sum(state.bytes().values())
    assert line.visible == (room is not None and room * 1e9 <= ROOM * held)
    words, titles = panel.sentence.value, " ".join(note.text for note in panel.figure.layout.annotations)
    assert span(state.days()[machine]) in words and origin in words and "2 such shares" in words
    if room is None:
        assert "fit" not in words
    else:
        fits = held <= room * 1e9
        assert line.x0 == line.x1 == room * 1e9 and ("too much" in titles) != fits
        assert f"{'fits' if fits else 'does not fit'} into {room} GB" in words


def test_a_rate_of_your_own_chooses_that_machine(panel):
    panel.state.tflops = 12.0
    assert panel.state.machine == OWN and panel.state.rates()[OWN] == 12e12
    assert Scale(5e10, tflops=3.0).machine == OWN


@pytest.mark.parametrize(
    ("days", "words"),
    [(45_678, "130 years"), (1000, "2.7 years"), (400, "400 days"), (1, "24 hours"), (1e-4, "0.14 minutes")],
)
def test_days_come_in_the_unit_that_suits_them(days, words):
    assert span(days) == words


@pytest.mark.parametrize(
    ("value", "words"), [(675_129_632, "675.1 M"), (23.0e9, "23 G"), (1_536, "1.54 k"), (0, "0"), (3.2e12, "3.2 T")]
)
def test_amounts_come_with_a_prefix(value, words):
    assert amount(value) == words


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [0.0, float("nan"), "fast"])
def test_a_machine_that_cannot_be_is_refused(value):
    with pytest.raises(ConfigError, match=r"^measured = "):
        Scale(value)
    with pytest.raises(ConfigError, match=r"^gigabytes = "):
        Scale(1e9, value)
    with pytest.raises(TraitError):
        Scale(1e9, utilisation=0.0)
