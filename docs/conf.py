"""The documentation site: `python -m sphinx -W --keep-going -b html docs docs/_build/html`.

Pages for methods and metrics are made by `pages.py` before the sources are read.
"""

import os
import re
import sys
import tomllib
from collections import _tuplegetter  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
# Executed pages leave the reader's own cache alone, and find the checkout.
os.environ.setdefault("XDG_CACHE_HOME", str(DOCS / "_build/cache"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ["JAX_PLATFORMS"] = "cpu"

from docs import pages  # noqa: E402

project = "unlearn_jax"
author = copyright = "The unlearn_jax authors"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

default_role = "code"  # of single backticks, in docstrings
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "unlearn_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds for a cell, on a busy machine
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # nothing is fetched from elsewhere

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"


def markdown(app: Any, document: str, source: list[str]) -> None:
    """Adapts a page to the site before it is read."""
    source[0] = pages.adapted(source[0], document)


def docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escapes what Markdown leaves alone and reStructuredText does not: bars, and a name that ends in an underscore."""
    lines[:] = ["".join(_plain(part) if even else part for even, part in _parts(line)) for line in lines]


def _parts(line: str) -> list[tuple[bool, str]]:
    """The parts of a line; those in backticks are odd."""
    return [(number % 2 == 0, part) for number, part in enumerate(re.split(r"(`[^`]*`)", line))]


def _plain(text: str) -> str:
    return re.sub(r"(?<=\S) \*(?=[ =])", r" \*", re.sub(r"(\||(?<=\w)_(?!\w))", r"\\\1", text))


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out the fields of a NamedTuple, which its docstring describes."""
    return True if isinstance(thing, _tuplegetter) else None


def setup(app: Any) -> None:
    """Makes the generated pages, and adds what the site does to its sources."""
    pages.write(DOCS / "generated")
    app.connect("source-read", markdown)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
