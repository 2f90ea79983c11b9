"""Names of pages become links.

The pages of this project name each other as files, ``docs/store.md`` in backticks, which is readable everywhere. On the
site such a name is a link; that of a decision is its number. One that begins with ``docs/`` and names no page is a
warning, which fails the build.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)

_PAGE = re.compile(r"[\w./-]+\.md|docs/decisions/")
_DECISION = re.compile(r"decisions/(\d+)-")
# Files outside this folder that pages of the site include.
_INCLUDED = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "benchmarks",
    "docs/decisions/": "decisions/README",
    "titan_neuro/titans/memory/README.md": "dual-form",
    "titans/memory/README.md": "dual-form",
}


class PageNames(SphinxTransform):
    """Make a link of each page's name that stands in backticks."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        """Look at every literal of the page that is being read."""
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            if isinstance(literal.parent, nodes.reference | addnodes.pending_xref) or not _PAGE.fullmatch(name):
                continue
            page = self._page(name)
            if page is not None:
                link = addnodes.pending_xref(
                    "", refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=True, refdoc=self.env.docname
                )
                literal.replace_self(link)
                decision = _DECISION.match(page)
                link += nodes.inline(text=f"decision {int(decision[1])}") if decision else literal

    def _page(self, name: str) -> str | None:
        """Page of the site that a file's name stands for; None for other files."""
        if name in _INCLUDED:
            return _INCLUDED[name]
        if name.startswith("benchmarks/results/"):
            return "benchmark-tables"
        beside = str(PurePosixPath(self.env.docname).parent / name)
        for candidate in (name.removeprefix("docs/"), beside):
            if candidate.removesuffix(".md") in self.env.found_docs:
                return candidate.removesuffix(".md")
        if name.startswith("docs/"):
            logger.warning("%s: no such page", name, location=self.env.docname, type="page_names")
        return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(PageNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
