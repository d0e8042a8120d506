"""How long the explorer's page makes a reader wait: ``python benchmarks/page.py`` (half a minute).

Milliseconds from a move of each control, by ``performance.now()`` in the page, until the frame after it is painted:
fifty moves each, in Chromium at 1280 × 800, from a file and offline. The goal is a median of at most 50 ms.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

from clock import about

from labkit.plots.explorer_page import write_explorer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from server import running_chromium, why_not

MOVES = 50
SLIDERS = ("p-age", "p-lam", "p-tau", "p-alpha", "a-lam", "a-tau", "a-alpha", "a-age")
TIMED = """async ([id, moves]) => {
    const input = document.getElementById(id), times = [];
    let way = 1;
    for (let i = 0; i < moves; i++) {
        if (+input.value + way > +input.max || +input.value + way < +input.min) way = -way;
        await new Promise(requestAnimationFrame);
        const began = performance.now();
        input.value = +input.value + way;
        input.dispatchEvent(new Event("input"));
        const drawn = performance.now() - began;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times.push([drawn, performance.now() - began]);
    }
    return times;
}"""


def main() -> None:
    print(f"{about()}; load of the machine: {os.getloadavg()[0]:.1f}")
    if (reason := why_not()) is not None:
        sys.exit(f"No slider was moved: {reason}")
    with tempfile.TemporaryDirectory() as work, running_chromium() as browser:
        file = write_explorer(Path(work) / "explorer.html")
        context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
        page = context.new_page()
        page.goto(file.as_uri())
        print(f"{file.stat().st_size / 1e6:.2f} MB")
        print(f"{f'ms from a move, {MOVES} moves: median, worst':44}{'drawn':>14}{'painted':>14}")
        for slider in SLIDERS:
            page.evaluate(f"() => document.getElementById('{slider}').scrollIntoView()")
            drawn, painted = zip(*page.evaluate(TIMED, [slider, MOVES]), strict=True)
            cells = "".join(f"{statistics.median(times):8.1f}{max(times):6.0f}" for times in (drawn, painted))
            print(f"  {slider:42}{cells}")


if __name__ == "__main__":
    main()
