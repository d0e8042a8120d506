"""Build the book: python docs/build.py notebooks/*.ipynb --out book

Each notebook named is run by a kernel of its own, at the LAB_TIER of the caller; its panels are kept as they stand at
its end. Sphinx then makes one site of the notebooks, the documents of the repository and the docstrings. The book
trains into a folder of its own, and leaves the reader's runs alone. Exit status 1 when a cell failed or Sphinx warned.
"""

import argparse
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable
from importlib import import_module
from inspect import isclass
from pathlib import Path
from types import ModuleType

import nbformat
import plotly.io
from nbclient import NotebookClient
from nbformat import NotebookNode
from sphinx.cmd.build import build_main

from labkit.plots.explorer_page import write_explorer
from labkit.runtime import machine, tier
from labkit.widgets.still import still_figure

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
PAGES = [
    "notebooks/glossary.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "data/atlas/CLAIMS.md",
    "data/atlas/PAYS.md",
]
"""Documents that become pages, under their own paths, so that the links between them hold."""
FILES = ["CITATION.cff", *(str(path.relative_to(REPO)) for path in (REPO / "data" / "pictures").iterdir())]
"""Files that they link to or show."""
EXPLORER = """# Explorer without Python

λ, τ, α, variant, block and training step move pictures, intervals, curves and maps. It is one file, which also
<a href="explorer.html">opens alone</a>, and which `labkit explorer --out FILE.html` writes.

<iframe src="explorer.html" title="Explorer without Python" style="width: 100%; height: 85vh; border: 0"></iframe>
"""
WITHOUT_PAGE = {"__main__", "arguments", "cli", "launch"}
"""Modules that are not in the reference: the command line describes itself (``labkit --help``)."""
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
PERSONAL = re.compile(r"^predictions\.(review|score|page)\(\)$", re.MULTILINE)
"""Cells that show what the reader has predicted."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "notebooks", type=Path, nargs="+", help="notebooks to run; the others become pages without outputs"
    )
    parser.add_argument("--out", type=Path, default=REPO / "book", help="folder of the site (default: book)")
    parser.add_argument(
        "--keep", action="store_true", help="do not run again what an earlier build into this folder ran"
    )
    args = parser.parse_args()
    work = args.out.resolve() / ".work"
    sources = work / "sources"
    if not args.keep:
        shutil.rmtree(work, ignore_errors=True)
    os.environ.setdefault("LAB_RUNS", str(work / "runs"))
    os.environ.setdefault("IPYTHONDIR", str(work / "ipython"))
    write_notebooks({path.resolve() for path in args.notebooks}, sources / "notebooks")
    write_documents(sources, args.out)
    write_reference(sources / "reference")
    options = ["--fresh-env", "--write-all", "--fail-on-warning", "--quiet", "--doctree-dir", str(work / "doctrees")]
    site = work / "site"  # MyST-NB writes beside it, too
    status = build_main([*options, "--conf-dir", str(REPO / "docs"), str(sources), str(site)])
    for part in site.iterdir():
        target = args.out / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    print(f"The book is in {args.out}: open {args.out / 'index.html'}")
    return status


def write_notebooks(to_run: set[Path], folder: Path) -> None:
    """Write all notebooks into a folder, and beside them the page on their minutes and memory."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, origins = [], {}
    for path in NOTEBOOKS:
        target = folder / path.name
        notebook = nbformat.read(target if target.exists() else path, as_version=4)
        if path in to_run and "book" not in notebook.metadata:
            print(f"{path.name} …", flush=True)
            run(notebook, path.parent)
        nbformat.write(notebook, target)
        shown = "not run | –"
        if "book" in notebook.metadata:
            cost = notebook.metadata["book"]
            shown = f"{cost['seconds'] / 60:.1f} | {cost['bytes'] / 1e9:.1f}"
            origins[cost["origin"]] = None
        rows.append(f"| [{title_of(path)}](notebooks/{path.name}) | {shown} |")
    lines = [
        "# Minutes and memory",
        "",
        "What each notebook took when it was run from top to bottom for these pages. The minutes include the start of",
        "its kernel, and the memory is the peak of the largest of its processes. Reading and exercises come on top.",
        "",
        "| notebook | minutes | GB |",
        "|---|---:|---:|",
        *rows,
        "",
        *origins,
    ]
    (folder.parent / "minutes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run a notebook in a folder; replace its widgets by still HTML, and note in its metadata what it took.

    Raises:
        CellExecutionError: a cell failed.
    """
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        shown = [output.data[WIDGET]["model_id"] for output in outputs(notebook) if WIDGET in output.data]
        source = f"from labkit.widgets.still import report\nprint(report({shown}, predictions))"
        notebook.cells.append(nbformat.v4.new_code_cell(source))
        client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        kept = json.loads("".join(output.text for output in notebook.cells.pop().outputs if output.name == "stdout"))
    notebook.metadata.pop("widgets", None)
    facts = machine()
    origin = (
        f"Tier {tier()} ({facts['processor']}; GPU: {facts['gpu']}; torch {facts['torch']}, Python {facts['python']}, "
        f"{facts['system']}; commit {facts['commit']})."
    )
    notebook.metadata["book"] = {"seconds": kept["seconds"], "bytes": kept["bytes"], "origin": origin}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            make_static(cell, kept["stills"])
    note = (
        f"These outputs come from a run of {kept['seconds'] / 60:.1f} [minutes](../minutes.md). Panels stand as they "
        "were at its end, and pointing at a figure shows its values; controls and buttons work in `make lab`."
    )
    contents = "```{contents}\n:local:\n:depth: 1\n:backlinks: none\n```"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f":::{{note}}\n{note}\n:::\n\n{contents}"))


def title_of(path: Path) -> str:
    """Number and title of a notebook."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"][0]
    return f"{path.stem[:2]} · {first.strip().removeprefix('# ').replace('*', '')}"


def outputs(notebook: NotebookNode) -> Iterable[NotebookNode]:
    """All outputs of a notebook that have data."""
    return (o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o)


def make_static(cell: NotebookNode, stills: dict[str, str]) -> None:
    """Replace what needs a kernel in the outputs of a cell by HTML; give pictures alternative text."""
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        cell.metadata["tags"] = ["hide-input"]
    kept = []
    for output in cell.outputs:
        data = output.get("data", {})
        if WIDGET in data:
            still = "" if PERSONAL.search(cell.source) else stills.get(data[WIDGET]["model_id"], "")
            output.data = NotebookNode({"text/html": still})
            kept += [output] if still else []
            continue
        if PLOTLY in data:
            figure = plotly.io.from_json(json.dumps(data[PLOTLY]), skip_invalid=True)
            output.data = NotebookNode({"text/html": still_figure(figure)})
        elif "image/png" in data:
            last = cell.source.strip().split("\n")[-1]
            cell.metadata["mystnb"] = {"image": {"alt": f"Picture made by the cell above: {last}"}}
        kept.append(output)
    cell.outputs = kept


def write_documents(sources: Path, out: Path) -> None:
    """Write the documents of the repository, and the README with all tables of contents as the start page."""
    for name in (*PAGES, *FILES):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / name, sources / name)
    readme = (REPO / "README.md").read_text(encoding="utf-8").replace("](labkit)", "](reference/index.rst)")
    contents = {
        "Notebooks": [*(f"{title_of(path)} <notebooks/{path.stem}>" for path in NOTEBOOKS), "notebooks/glossary"],
        "Results": ["explorer-page", "data/atlas/CLAIMS", "data/atlas/PAYS", "minutes"],
        "Library": ["reference/index", "CONTRIBUTING", "Data and licences <data/README>", "CHANGELOG"],
    }
    write_explorer(out / "explorer.html")
    (sources / "explorer-page.md").write_text(EXPLORER, encoding="utf-8")
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```"
        for caption, pages in contents.items()
    ]
    (sources / "index.md").write_text("\n\n".join([readme, *trees]) + "\n", encoding="utf-8")


def write_reference(folder: Path) -> None:
    """Write a page for each module, in the order of the layers that pyproject.toml names, a batch's way upwards."""
    layers = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    floors = [re.findall(r"\w+", layer) for layer in layers["contracts"][0]["layers"]]
    floors = [*floors[-2::-1], floors[-1]]  # the ground floor, which serves all others, comes last
    names = [name for floor in floors for name in floor if name not in WITHOUT_PAGE]
    folder.mkdir(exist_ok=True)
    index = [*heading("labkit, module by module", "="), ".. automodule:: labkit", ""]
    for name in names:
        module = import_module(f"labkit.{name}")
        summary = (module.__doc__ or "").strip().split("\n")[0]
        index.append(f"- :doc:`labkit.{name} <{name}>`: {escape(summary)}")
        page = [*heading(module.__name__, "="), f".. automodule:: {module.__name__}"]
        page += package_members(module) if hasattr(module, "__all__") else ["   :members:"]
        (folder / f"{name}.rst").write_text("\n".join(page) + "\n", encoding="utf-8")
    index += ["", ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names)]
    (folder / "index.rst").write_text("\n".join(index) + "\n", encoding="utf-8")


def package_members(package: ModuleType) -> list[str]:
    """The functions and classes that a package offers of its own, below the text of the module that defines them."""
    homes: dict[str, list[str]] = {package.__name__: []}
    for name in package.__all__:
        member = getattr(package, name)
        home = getattr(member, "__module__", "")
        if callable(member) and home.startswith(package.__name__):
            kind = "autofunction" if not isclass(member) else "autoclass"
            members = ["   :members:"] if isclass(member) else []
            homes.setdefault(home, []).extend([f".. {kind}:: {package.__name__}.{name}", *members, ""])
    lines = ["", *homes.pop(package.__name__)]
    for home, members in sorted(homes.items()):
        title = home.removeprefix(f"{package.__name__}.")
        lines += [*heading(title, "-"), f".. automodule:: {home}", "   :no-index:", "", *members]
    return lines


def heading(title: str, rule: str) -> list[str]:
    """A heading in reStructuredText."""
    return [title, rule * len(title), ""]


def escape(text: str) -> str:
    """Text in which nothing but ``code`` is markup, for reStructuredText."""
    plain, *rest = re.split(r"(``.+?``)", text)
    escaped = _backslashes(plain)
    for code, after in zip(rest[::2], rest[1::2], strict=True):
        escaped += code + ("\\ " if re.match(r"\w", after) else "") + _backslashes(after)  # code may end within a word
    return escaped


def _backslashes(text: str) -> str:
    return re.sub(r"([*|`\\]|_\b)", r"\\\1", text)


if __name__ == "__main__":
    raise SystemExit(main())
