"""The panel of scale: each control changes the panes that it concerns and no others; figure and words agree."""

import time

import pytest
from traitlets import TraitError

from labkit.checks import ConfigError
from labkit.scale import cost, memory
from labkit.widgets.scale import MINE, OWN, Scale, amount, scale_panel, span

PANES = ("parameters", "macs", "bytes", "days")


@pytest.fixture
def state():
    return Scale(5e10, 16.0)


@pytest.fixture
def panel(state):
    panel = scale_panel(state)
    yield panel
    panel.close()


def parts(state):
    return dict(parameters=state.cost.parameters, macs=state.cost.macs, bytes=state.bytes(), days=state.days())


@pytest.mark.parametrize(
    ("trait", "value", "changed"),
    [
        ("size", "XL", {"parameters", "macs", "bytes", "days"}),
        ("patch", 8, {"parameters", "macs", "bytes", "days"}),  # of the parameters the ends and the positions
        ("family", "MeanFlow", {"parameters", "macs", "bytes", "days"}),
        ("family", "DiT", set()),
        ("batch", 64, {"bytes"}),
        ("precision", "float32", {"bytes"}),
        ("machine", MINE, set()),
        ("tflops", 7.0, {"days"}),
        ("utilisation", 0.8, {"days"}),
    ],
)
def test_every_control_changes_what_it_should(state, panel, trait, value, changed):
    before, bars = parts(state), [list(b.x) for b in panel.figure.data]
    panel.controls[trait].value = value
    after = parts(state)
    assert {pane for pane in PANES if before[pane] != after[pane]} == changed
    moved = {pane for pane, b, a in zip(PANES, bars, panel.figure.data, strict=True) if b != list(a.x)}
    assert moved == changed


def test_the_bars_are_the_parts_and_their_sum(state, panel):
    for bars, parts in zip(panel.figure.data, (state.cost.parameters, state.cost.macs, state.bytes()), strict=False):
        assert list(bars.x) == [sum(parts.values()), *parts.values()] and bars.y[0] == "all"
    assert state.bytes() == memory(cost("SiT-B/2"), 32, "bfloat16")
    days = panel.figure.data[3]
    assert list(days.x) == list(state.days().values())
    assert [y.removesuffix(", datasheet") for y in days.y] == list(state.rates())


def test_the_chosen_machine_stands_out_and_its_memory_is_drawn(state, panel):
    state.size, state.batch = "XL", 128  # some 65 GB
    for machine, room in ((MINE, 16), ("RTX 4090", 24), ("A100 SXM", 80), (OWN, None)):
        state.machine = machine
        inks = dict(zip(state.rates(), panel.figure.data[3].marker.color, strict=True))
        assert len({ink for name, ink in inks.items() if name != machine}) == 1
        assert inks[machine] not in [ink for name, ink in inks.items() if name != machine]
        line = panel.figure.layout.shapes[0]
        held = sum(state.bytes().values())
        assert line.visible == (room is not None and room * 1e9 <= 1.4 * held)
        assert room is None or line.x0 == line.x1 == room * 1e9
        assert span(state.days()[machine]) in panel.sentence.value


def test_too_little_memory_is_said(state, panel):
    state.size, state.machine = "XL", "RTX 4090"
    assert "does not fit into 24 GB" in panel.sentence.value and "too much for 24 GB" in titles(panel)
    state.size = "S"
    assert "fits into 24 GB" in panel.sentence.value and "too much" not in titles(panel)


def titles(panel):
    return " ".join(note.text for note in panel.figure.layout.annotations)


def test_a_rate_of_your_own_chooses_that_machine(state):
    assert state.machine != OWN
    state.tflops = 12.0
    assert state.machine == OWN and state.rates()[OWN] == 12e12
    assert Scale(5e10, tflops=3.0).machine == OWN


def test_the_words_say_where_a_rate_comes_from(state, panel):
    for machine, origin in ((MINE, "measured just now"), ("H100 SXM", "datasheet peak"), (OWN, "your value")):
        state.machine = machine
        assert origin in panel.sentence.value and "an estimate" in panel.sentence.value
    assert "datasheet" in " ".join(panel.figure.data[3].y)
    assert f"{sum(state.cost.parameters.values()):,} parameters" in panel.sentence.value
    assert "8 such shares" in panel.sentence.value
    state.batch = 256
    assert "the whole batch of 256" in panel.sentence.value


def test_a_machine_of_unknown_memory_has_no_line():
    panel = scale_panel(Scale(5e10, machine=MINE))
    assert not panel.figure.layout.shapes[0].visible and "fit" not in panel.sentence.value
    panel.close()


def test_it_redraws_at_once_whatever_was_seen_before(state, panel):
    moves = [("patch", patch) for patch in (4, 8, 2)] + [("utilisation", share / 10) for share in range(1, 8)]
    state.patch = 8
    took = []
    for trait, value in moves:
        began = time.process_time()
        setattr(state, trait, value)
        took.append(time.process_time() - began)
    assert sorted(took)[len(took) // 2] < 0.1


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (1000.0, "2.7 years"),
        (400.0, "400 days"),
        (2.0, "2 days"),
        (1.0, "24 hours"),
        (0.05, "72 minutes"),
        (45_678.0, "130 years"),
        (0.0001, "0.14 minutes"),
    ],
)
def test_days_come_in_the_unit_that_suits_them(days, words):
    assert span(days) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(675_129_632, "675.1 M"), (23.0e9, "23 G"), (1_536, "1.54 k"), (12, "12"), (0, "0"), (3.2e12, "3.2 T")],
)
def test_amounts_come_with_a_prefix(value, words):
    assert amount(value) == words


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0,), "measured"),
        ((float("nan"),), "measured"),
        (("fast",), "measured"),
        ((1e9, 0.0), "gigabytes"),
        ((1e9, float("inf")), "gigabytes"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(arguments, name):
    with pytest.raises(ConfigError, match=rf"^{name} = "):
        Scale(*arguments)


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        ("size", "M"),
        ("patch", 3),
        ("family", "UNet"),
        ("batch", 3),
        ("precision", "float8"),
        ("machine", "abacus"),
        ("tflops", 0.0),
        ("utilisation", 0.0),
        ("utilisation", 1.5),
    ],
)
def test_a_value_that_cannot_be_is_refused(state, trait, value):
    before = parts(state)
    with pytest.raises(TraitError):
        setattr(state, trait, value)
    assert parts(state) == before
