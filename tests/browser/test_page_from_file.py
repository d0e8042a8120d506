"""The explorer's page in Chromium, opened from its file, with no network: every control moves what it should."""

from __future__ import annotations

import random

import pytest

from labkit.experiments import Atlas
from labkit.experiments.atlas import COORDINATES
from labkit.experiments.playground import Playground
from labkit.metrics import metric
from labkit.plots.explorer_page import write_explorer
from labkit.widgets import playground as playground_frame

SIZES = ((1280, 800), (390, 844))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_explorer(tmp_path_factory.mktemp("explorer") / "explorer.html")


@pytest.fixture(scope="module")
def opened(chromium, file):
    """The page in a tab without a network; what it asks for, and what goes wrong in it."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    yield page
    assert not faults, "the page asks for something, or something went wrong in it"
    context.close()


def data(page, section: str) -> dict[str, str]:
    return page.evaluate("id => ({...document.getElementById(id).dataset})", section)


def text(page, selector: str) -> str:
    return page.locator(selector).first.text_content()


def press(page, control: str, *keys: str) -> None:
    page.locator(f"#{control}").focus()
    for key in keys:
        page.keyboard.press(key)


def test_each_slider_of_the_playground_moves_the_pictures(opened):
    contents = Playground.load()
    headlines = {text(opened, "#p-headline")}

    def check(condition: str, step: int) -> None:
        assert data(opened, "playground") == {"condition": condition, "step": str(step)}
        for name in ("feature_norm", "effective_rank", "dispersive", "loss_held_out"):
            there = text(opened, f"#p-{name} b").replace("\N{MINUS SIGN}", "-")
            assert float(there) == pytest.approx(contents.number(condition, step, name), rel=0.006), name
        words = text(opened, "#p-headline")
        assert words not in headlines, "the live region says something else"
        headlines.add(words)
        assert f"{step:,} steps" in text(opened, "#p-shown")

    headlines.clear()
    check("coarse-dispersive", contents.ages[-1])
    pictures = opened.evaluate("() => [...document.querySelectorAll('#playground canvas')].map(c => c.toDataURL())")
    press(opened, "p-lam", "ArrowRight")
    check("coarse-lam1-tau0.5", contents.ages[-1])
    moved = opened.evaluate("() => [...document.querySelectorAll('#playground canvas')].map(c => c.toDataURL())")
    assert [a != b for a, b in zip(pictures, moved, strict=True)] == [True, True, False, True], (
        "the baseline's cloud in the other's scale, the run's cloud and its samples"
    )
    press(opened, "p-lam", "ArrowLeft")
    press(opened, "p-tau", "End")
    check("coarse-lam0.5-tau2", contents.ages[-1])
    press(opened, "p-age", "ArrowLeft")
    check("coarse-lam0.5-tau2", contents.ages[-2])
    press(opened, "p-tau", "Home", "ArrowRight")
    press(opened, "p-alpha", "End")
    check("coarse-l2-independent", contents.ages[-2])
    press(opened, "p-lam", "End")
    assert "nearest has" in text(opened, "#p-moved"), "nothing was trained at λ = 1 and α = 1"
    check("coarse-lam1-tau0.5", contents.ages[-2])
    opened.locator("#p-variant").select_option(label="hinge")
    check("coarse-hinge", contents.ages[-2])
    assert "√ε" in text(opened, "#p-distances svg")
    press(opened, "p-lam", "Home")
    check("coarse-baseline", contents.ages[-2])
    press(opened, "p-tau", "ArrowRight")
    assert "τ and α change nothing" in text(opened, "#p-moved")


def test_the_film_shows_every_age(opened):
    contents = Playground.load()
    opened.evaluate("""() => {
        window.film = [];
        new MutationObserver(() => film.push(document.getElementById("playground").dataset.step))
            .observe(document.getElementById("playground"), { attributeFilter: ["data-step"] });
    }""")
    press(opened, "p-age", "End")
    opened.locator("#p-play").click()
    opened.wait_for_function(f"() => document.getElementById('playground').dataset.step === '{contents.ages[0]}'")
    opened.wait_for_function(f"() => document.getElementById('playground').dataset.step === '{contents.ages[-1]}'")
    film = opened.evaluate("() => film.filter((step, i) => step !== film[i - 1])")
    assert film[-len(contents.ages) :] == [str(age) for age in contents.ages]
    assert "play" in text(opened, "#p-play")


def test_it_goes_where_the_library_goes(opened):
    """The page's ``snap`` is the atlas's, for controls moved anywhere from anywhere."""
    atlas, draw = Atlas.load(), random.Random(0)
    moves = []
    for _ in range(150):
        key = draw.choice(COORDINATES)
        moves.append(({**draw.choice([*atlas.points.values()]), key: draw.choice(atlas.choices(key))}, key))
    there = opened.evaluate("moves => moves.map(([wanted, moved]) => snap(A.conditions, wanted, moved))", moves)
    assert there == [atlas.snap(wanted, moved) for wanted, moved in moves]
    assert len(set(there)) > 20


def test_each_control_of_the_atlas_goes_to_a_measured_run(opened):
    atlas = Atlas.load()
    opened.evaluate("() => choose('coarse-dispersive')")
    for key, keys in (("lam", ["Home"]), ("lam", ["End"]), ("tau", ["End"]), ("alpha", ["End"])):
        before = atlas.points[data(opened, "atlas")["condition"]]
        press(opened, f"a-{key}", *keys)
        wanted = {**before, key: atlas.choices(key)[-1 if keys == ["End"] else 0]}
        assert data(opened, "atlas")["condition"] == atlas.snap(wanted, key), key
    for key in ("variant", "block", "noise", "model", "dataset", "also"):
        before = atlas.points[data(opened, "atlas")["condition"]]
        press(opened, f"a-{key}", "End")
        wanted = {**before, key: atlas.choices(key)[-1]}
        assert data(opened, "atlas")["condition"] == atlas.snap(wanted, key), key
        condition = data(opened, "atlas")["condition"]
        assert condition in text(opened, "#a-shown")
        at = opened.evaluate(
            f"() => Object.fromEntries({list(COORDINATES)}.map(key => [key, atlas.controls[key].value]))"
        )
        assert at == {key: atlas.points[condition][key] for key in COORDINATES}, (
            "every control shows the run's own value"
        )


def test_step_and_block_choose_what_was_measured(opened):
    atlas = Atlas.load()
    opened.evaluate("() => choose('coarse-dispersive')")
    opened.locator("#a-measure").select_option(label=metric("mean_pairwise_distance").label)
    for keys, step, block in ((["a-age", "Home"], 500, 1), (["a-layer", "End"], 500, 3), (["a-age", "End"], 6000, 3)):
        press(opened, *keys)
        assert data(opened, "atlas")["step"] == str(step) and data(opened, "atlas")["block"] == str(block)
        mean = atlas.band("coarse-dispersive", "mean_pairwise_distance", step=step, block=block).mean
        assert f"{mean:.2f}" in text(opened, "#a-headline")
        assert f"step {step:,}" in text(opened, "#a-ages details p")


def test_every_question_shows_its_differences(opened):
    atlas = Atlas.load()
    opened.evaluate("() => choose('coarse-dispersive')")
    opened.locator("#a-measure").select_option(label=metric("frechet").label)
    for question, words in atlas.questions.items():
        rows = atlas.findings[(atlas.findings["question"] == question) & (atlas.findings["measure"] == "frechet")]
        if not len(rows):
            continue
        opened.locator("#a-question").select_option(label=words)
        if data(opened, "atlas")["measure"] != "frechet":
            continue
        assert text(opened, "#a-findings h2") == words
        if (rows["step"] == 1500).any():
            rows = rows[rows["step"] == 1500]
        assert opened.locator("#a-findings button.row").count() == len(rows)
        assert text(opened, "#a-findings details p").count("\n") == len(rows)
    opened.locator("#a-question").select_option(label=atlas.questions["lam-tau"])
    row = opened.locator("#a-findings button.row[data-condition='coarse-lam1-tau2']")
    row.focus()
    opened.keyboard.press("Enter")
    assert data(opened, "atlas")["condition"] == "coarse-lam1-tau2"
    assert opened.locator("#a-findings button[aria-pressed=true]").get_attribute("data-condition") == "coarse-lam1-tau2"
    assert opened.evaluate("() => document.activeElement.dataset.condition") == "coarse-lam1-tau2", "focus stays"


def test_umap_says_what_it_cannot_show(opened):
    pictures = "() => [...document.querySelectorAll('#a-map canvas')].map(c => c.toDataURL())"
    before = opened.evaluate(pictures)
    opened.locator("#a-kind").select_option(label="UMAP: neighbourhoods only")
    assert all(a != b for a, b in zip(before, opened.evaluate(pictures), strict=True))
    assert "cannot show spread" in text(opened, "#a-map figcaption")
    opened.locator("#a-kind").select_option(label="PCA: keeps scale")


def test_every_graphic_has_a_text_and_every_control_a_name(opened):
    silent = "() => [...document.querySelectorAll('canvas, svg')].filter(g => !g.getAttribute('aria-label')).length"
    assert opened.evaluate(silent) == 0
    nameless = """() => [...document.querySelectorAll('input, select, button')].filter(c => !c.labels?.length
        && !c.textContent.trim()).length"""
    assert opened.evaluate(nameless) == 0
    opened.evaluate("() => document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
    controls = set(opened.evaluate("() => [...document.querySelectorAll('input:enabled, select')].map(c => c.id)"))
    assert controls <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_can_be_read(chromium, file, size, scheme):
    width, height = size
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0, "nothing stands out at the side"
    contrast = page.evaluate("""() => {
        const light = (name) => {
            const rgb = css(name).slice(1), long = rgb.length === 3 ? [...rgb].map((c) => c + c).join("") : rgb;
            const part = [0, 2, 4].map((i) => parseInt(long.slice(i, i + 2), 16) / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2] + 0.05;
        };
        const ratio = (name, back) => light(name) > light(back) ? light(name) / light(back) : light(back) / light(name);
        return ["--ink", "--quiet", "--base", "--run", "--good", "--gold"].flatMap((name) =>
            ["--card", "--ground"].map((back) => ratio(name, back)));
    }""")
    assert min(contrast) >= 4.5, "as WCAG asks of text"
    context.close()


def test_a_notebook_s_frame_is_the_playground_alone(chromium):
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.set_content(playground_frame()._repr_mimebundle_()["text/html"])
    frame = page.frame_locator("iframe")
    frame.locator("#p-lam").focus()
    page.keyboard.press("Home")
    assert frame.locator("#p-shown").text_content().startswith("SiT-Nano/4, baseline")
    assert frame.locator("#atlas").is_hidden()
    context.close()
