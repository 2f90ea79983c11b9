"""Pages from templates: one HTML file each, which needs no other file and opens no connection."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).with_name("templates")
_SCRIPTS = ("sort.js", "viewer.js", "surface.js")


_BREAKS = re.compile(r"(?<=\d) (?=%|s\b)|(?<=\bp) (?=[=<])|(?<=\bp [=<]) (?=\d)")


def unbroken(text: str) -> str:
    """Keep a number and its unit, and ``p = 0.019``, in one line."""
    return _BREAKS.sub("\N{NO-BREAK SPACE}", text)


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return a page.

    It runs one script, which sorts tables, moves slices of maps and turns surfaces, and is named by its digest: text
    from files can't become another one.

    Parameters
    ----------
    template : str
        Name of its file, which extends ``base.html``.
    content : mapping
        Its variables. Text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    script = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return environment.get_template(template).render(content, script=script, script_digest=_digest(script))


def _digest(script: str) -> str:
    """Digest of a script as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
