"""How Sphinx builds the site (`make docs`): the pages of this folder, and what `reference.py` makes of the code."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Titan-Neuro"
author = "The Titan-Neuro developers"
project_copyright = f"2026, {author}"
version = release = version_of("titan-neuro")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "page_names",
    "reference",
]
exclude_patterns = ["_extensions"]

# Links to headings, as GitHub makes them.
myst_heading_anchors = 4

# The pages of the API have one directive for each name, so that nothing is generated into the folder.
autosummary_generate = False
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 9,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
}
