"""How Sphinx builds the site: the pages as they are, and the API from the docstrings."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from unmask import __version__  # noqa: E402

project, author, copyright = "unmask", "the unmask developers", "the unmask developers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.apidoc",
    "sphinx.ext.viewcode",
]
apidoc_modules = [
    {
        "path": "../src/unmask",
        "destination": "api/",
        "separate_modules": True,
        "module_first": True,
        "include_private": False,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {
    "exclude-members": "__init__, __post_init__, __new__",
    "ignore-module-all": True,  # a name is documented where it is defined
}
napoleon_numpy_docstring = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
html_theme = "furo"
html_title = f"unmask {release}"
html_extra_path = ["../benchmarks/reports"]
exclude_patterns = ["_build"]

# What pages link to outside docs/: reports are copied beside the pages, other files are named.
REPORT = re.compile(r"\[([^\]]+)\]\(\.\./benchmarks/reports/([\w.-]+)\)")
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([\w./-]+)\)")


def on_the_site(app, name, content):
    """The source of a page with the links that lead somewhere on the site."""
    text = REPORT.sub(r'<a href="\2">\1</a>', content[0])
    content[0] = OUTSIDE.sub(r"\1 (`\2`)", text)


def setup(app):
    """Sphinx asks for it."""
    app.connect("source-read", on_the_site)
