"""Addresses of datasets: URLs, paths, and places in a RIA store of DataLad; different spellings of one place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

from titan_neuro.errors import UsageError

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://|^[^/]+@[^/]+:")
_RIA_PREFIX = "ria+"
_RIA = re.compile(
    r"^ria\+(?P<store>(?:file|ssh|https?)://[^#]*)#"
    r"(?:(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|~(?P<alias>[^@/]+))(?:@(?P<version>.+))?$"
)
# ``ssh://host:/path``: a port that is not given.
_NO_PORT = re.compile(r"^([a-z]+://[^/]*):(?=/)")


@dataclass(frozen=True)
class RIAAddress:
    """A dataset in a RIA store: ``ria+SCHEME://STORE#ID`` or ``#~ALIAS``, with or without ``@VERSION``.

    Attributes
    ----------
    url : str
        Where git finds the dataset in the store.
    version : str or None
        Branch, tag or commit; None for the latest.
    """

    url: str
    version: str | None


def is_url(source: str) -> bool:
    """Whether a source is a URL, not a path."""
    return _URL.match(source) is not None


def parse_ria(source: str) -> RIAAddress | None:
    """Parse the address of a dataset in a RIA store; None for any other address.

    Raises
    ------
    UsageError
        The address names a store, but no dataset in it.
    """
    if not source.startswith(_RIA_PREFIX):
        return None
    match = _RIA.match(source)
    if match is None:
        raise UsageError(
            f"fetch {source}: this is no address of a dataset in a RIA store.",
            "Expected ria+SCHEME://STORE#ID or ria+SCHEME://STORE#~ALIAS, with or without @VERSION at its end; SCHEME "
            "is file, ssh, http or https, ID the dataset's UUID (datalad.dataset.id in its .datalad/config).",
        )
    dataset = f"alias/{match['alias']}" if match["alias"] else f"{match['id'][:3]}/{match['id'][3:]}"
    return RIAAddress(f"{match['store'].rstrip('/')}/{dataset}", match["version"])


def same_place(one: str, other: str) -> bool:
    """Whether two addresses are spellings of one place; a version named in a RIA address doesn't count."""
    return _canonical(one) == _canonical(other)


def _canonical(address: str) -> str:
    ria = parse_ria(address)
    address = ria.url if ria else address
    scheme, is_scheme, rest = address.partition("://")
    if scheme == "file" and is_scheme:
        address = unquote(rest.removeprefix("localhost"))
    # DataLad clones from URL/.git if URL itself is no repository, and records that address.
    address = address.rstrip("/").removesuffix("/.git").removesuffix(".git").rstrip("/")
    if not is_url(address):
        # An alias in a RIA store is a link to the dataset.
        return os.path.realpath(address)
    scheme, _, rest = _NO_PORT.sub(r"\1", address).partition("://")
    return f"{scheme}://{re.sub('/{2,}', '/', rest)}"
