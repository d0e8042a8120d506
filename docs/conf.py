"""Sphinx's settings for the book; docs/build.py makes its sources and calls it."""

import importlib.util
import re
from pathlib import Path

import plotly
from build import escape

import labkit
from labkit.runtime import tier

HERE = Path(__file__).parent

project = "labkit"
author = "The labkit authors"
release = labkit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]

# Notebooks come with their outputs.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "gfm"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
highlight_language = "none"

# Docstrings are plain text with ``code``, indented formulas and sections of Google's form.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "labkit: a lab for Dispersive Loss"
html_theme_options = {
    "use_download_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "secondary_sidebar_items": {"notebooks/*": [], "[!n]**": ["page-toc"]},  # figures get its room
}
if tier() == "smoke":
    html_theme_options["announcement"] = (
        "Built in tier smoke: trainings took seconds, so what they show means nothing. Shipped results stand."
    )
html_context = {"default_mode": "light"}
html_show_search_summary = False  # it would fetch pages, which a browser refuses to a site of files
html_copy_source = False
html_show_sourcelink = False
# Scripts that pages would otherwise fetch: the site needs no network.
_mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"
_plotly = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
html_static_path = [str(HERE / "static"), str(_mathjax), str(_plotly)]
html_css_files = ["book.css"]
mathjax_path = _mathjax.name
mathjax3_config = {"options": {"enableMenu": False}}


def plain_docstring(app, what, name, obj, options, lines):
    """Make a docstring reStructuredText: formulas literal, arguments that share a line apart, no other markup."""
    whole = re.sub(r"``[^`]+``", lambda code: " ".join(code[0].split()), "\n".join(lines))  # code in one line
    text, literal, arguments, blank = [], False, False, True
    for line in whole.split("\n"):
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if bare and indent == 0 and (blank or not literal):
            literal, arguments = False, bare in ("Args:", "Raises:", "Returns:")
        column = re.search(r"\S {3,}\S", bare)  # of a table
        if blank and bare and (indent or column) and not arguments and not literal:
            text += [".. code-block:: none", ""]
            literal = True
        blank = not bare
        if literal:
            text.append("    " + line if bare else line)
        elif arguments and indent:
            text += [" " * indent + escape(part) for part in re.split(r" {2,}(?=[\w, ]+: )", bare)]
        else:
            text.append(escape(line))
    lines[:] = text
    if what in ("attribute", "property"):
        options.plain = text


def plain_attribute(app, what, name, obj, options, lines):
    """Undo what napoleon makes of an attribute's docstring with a colon: it takes the words before it for a type."""
    if what in ("attribute", "property"):
        lines[:] = options.plain


def add_plotly(app, pagename, templatename, context, doctree):
    """Load plotly's script on pages that have a figure of its; figures take their width when the page is laid out."""
    if "plotly-graph-div" in context.get("body", ""):
        app.add_js_file(_plotly.name)
        app.add_js_file(None, body='addEventListener("load", () => dispatchEvent(new Event("resize")));')


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", plain_attribute, priority=600)
    app.connect("html-page-context", add_plotly)
