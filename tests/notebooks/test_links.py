"""Ways through the lab: what a notebook needs, Back and Next, and a glossary in which every linked word stands."""

import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest
from test_notebooks import names
from texts import FOLDER, NOTEBOOKS, cells

GLOSSARY = FOLDER / "glossary.md"
ENTRY = re.compile(r'^<a id="([\w-]+)"></a>\n\n## (.+)\n\n((?:.+\n)+)\n(.*)first in \[(\d\d)\]\((\S+)\)$', re.M)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def local_links(text: str) -> list[tuple[str, str]]:
    """(file, anchor) of every link that leads to no address of the web."""
    links = (link.partition("#") for link in LINK.findall(text) if "://" not in link)
    return [(file, anchor) for file, _, anchor in links]


def text_of(path: Path) -> str:
    return "\n\n".join(cells(path, "markdown")) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


@cache
def entries() -> dict[str, tuple[str, str, str, str, str]]:
    """Anchor → title, text, names of labkit, number and file of the notebook that first links to it."""
    return {anchor: rest for anchor, *rest in ENTRY.findall(GLOSSARY.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("number", range(len(NOTEBOOKS)), ids=[names(path) for path in NOTEBOOKS])
def test_a_notebook_says_what_it_needs_and_leads_back_and_on(number):
    markdown = cells(NOTEBOOKS[number], "markdown")
    assert "**You need** " in markdown[0], "say in its first cell what a reader should know"
    needed = {file for file, _ in local_links(markdown[0]) if file.endswith(".ipynb")}
    assert needed <= {path.name for path in NOTEBOOKS[:number]}, "it can only need notebooks before it"
    last = markdown[-1]
    back, on = (re.search(rf"\*\*{word}:\*\* \[(\d\d) [^\]]+\]\((\S+)\)", last) for word in ("Back", "Next"))
    for link, neighbour in ((back, number - 1), (on, number + 1)):
        path = NOTEBOOKS[neighbour] if 0 <= neighbour < len(NOTEBOOKS) else None
        assert (link and link.groups()) == (path and (path.name[:2], path.name))
    assert "(glossary.md)" in last


@pytest.mark.parametrize("path", [*NOTEBOOKS, GLOSSARY], ids=names)
def test_every_link_to_a_file_leads_somewhere(path):
    for file, anchor in local_links(text_of(path)):
        assert (path.parent / file).is_file(), file
        assert not anchor or (file == GLOSSARY.name and anchor in entries()), f"the glossary has no entry {anchor}"


def test_the_glossary_is_in_order_and_its_anchors_are_those_of_github_and_sphinx():
    text = GLOSSARY.read_text(encoding="utf-8")
    titles = [title for title, *_ in entries().values()]
    assert text.count("\n## ") == len(titles) > 40, "an entry is not of the usual form"
    assert titles == sorted(titles, key=str.lower)
    for anchor, (title, *_) in entries().items():
        assert anchor == re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_entry_is_linked_and_names_the_notebook_that_does_so_first():
    for anchor, (title, _, _, number, file) in entries().items():
        using = [path for path in NOTEBOOKS if (GLOSSARY.name, anchor) in local_links(text_of(path))]
        assert using and (using[0].name[:2], using[0].name) == (number, file), title


@pytest.mark.parametrize("anchor", entries())
def test_every_name_in_the_glossary_can_be_imported(anchor):
    _, text, code, *_ = entries()[anchor]
    for name in re.findall(r"`(labkit[\w.]*)`", text + code):
        assert pkgutil.resolve_name(name) is not None
