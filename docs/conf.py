"""Sphinx's configuration of the documentation; `make docs` builds it into docs/_build."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

import figures  # noqa: E402

from vlmbench import __version__  # noqa: E402

project = "vlmbench"
author = "the vlmbench authors"
project_copyright = "2026, the vlmbench authors"
version = release = __version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "docstrings",
    "generate",
]
highlight_language = "bash"  # of code blocks that name no language
exclude_patterns = ["_build", "_generated", "_ext"]
html_extra_path = ["schemas"]

myst_enable_extensions = ["substitution", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_substitutions = figures.all_figures()

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": True}

copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_title = "vlmbench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
# A page without a section of its own needs no list of the section's pages.
ALONE = ("index", "getting-started", "concepts", "tutorial", "reading-the-report", "benchmarks")
ALONE += ("faq", "contributing", "changelog")
html_sidebars = {page: [] for page in ALONE}
html_theme_options = {
    "logo": {"text": "vlmbench"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "show_prev_next": True,
    "navigation_with_keys": False,
}
