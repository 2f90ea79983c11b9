"""The datasets that `fetch` knows by name: where they are published, and the commit that results refer to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from titan_neuro.errors import InputNotFoundError, UsageError

DerivativeKind = Literal["transforms", "fmriprep"]

_ACCESSION = re.compile(r"^ds\d{6}$")
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://|^[^/]+@[^/]+:")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A DataLad dataset and the state of it that is meant.

    Attributes
    ----------
    url : str
        Address, or path, to clone from.
    commit : str or None
        Full hash of the commit to check out; None for whatever the place has.
    name : str
        Of a derivative: its folder in the raw clone's ``derivatives/``.
    root : str
        Where in the clone the BIDS dataset begins (the folder of ``dataset_description.json``).
    """

    url: str
    commit: str | None = None
    name: str = ""
    root: str = "."


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """A raw dataset, and what others have published of the same scans."""

    raw: Published
    derivatives: Mapping[DerivativeKind, Published] = field(default_factory=lambda: MappingProxyType({}))


REGISTRY: Mapping[str, RegistryEntry] = MappingProxyType(
    {
        "ds003017": RegistryEntry(
            raw=Published(
                url="https://github.com/OpenNeuroDatasets/ds003017",
                commit="a47a61cbbc16642ed4100b19b47da0a6dffbd532",
            ),
            derivatives=MappingProxyType(
                {
                    "transforms": Published(
                        url="https://github.com/OpenNeuroDerivatives/ds003017-fmriprep",
                        commit="1ea98b21482d2286a0b260a4e9bd8e5e93bff176",
                        name="ds003017-fmriprep",
                    ),
                    "fmriprep": Published(
                        url="https://github.com/neuroscout-datasets/ds003017",
                        commit="e614576282fd8e36e6ac6dec401174ae97313c3f",
                        name="ds003017-neuroscout",
                        root="fmriprep",
                    ),
                }
            ),
        )
    }
)


def find_entry(source: str, directory: Path, registry: Mapping[str, RegistryEntry] = REGISTRY) -> RegistryEntry:
    """Say what a source means: an entry of the registry, or a dataset that is known by its address alone.

    An accession number is looked up, and means OpenNeuro's dataset, not pinned, where the registry has no such entry.
    A folder of that name is taken instead, unless it is `directory`: then it is the clone to go on with. An address
    means what lies there now, never a pinned state.

    Parameters
    ----------
    source : str
        An accession number such as ``ds003017``, a URL, or a path.
    directory : Path
        Where the clone is, or is to be.
    registry : mapping
        Entries by accession number.

    Raises
    ------
    InputNotFoundError
        `source` is a path at which there is nothing.
    """
    if is_url(source):
        return RegistryEntry(raw=Published(url=source))
    path = Path(source).expanduser()
    if _ACCESSION.match(source) and (not path.exists() or path.resolve() == directory.resolve()):
        unknown = RegistryEntry(raw=Published(url=f"https://github.com/OpenNeuroDatasets/{source}"))
        return registry.get(source, unknown)
    if not path.exists():
        raise InputNotFoundError(
            f"{source}: no such dataset: neither a folder, nor a URL, nor an accession number such as ds003017."
        )
    return RegistryEntry(raw=Published(url=str(path.resolve())))


def find_derivative(
    entry: RegistryEntry, kind: DerivativeKind, source: str, registry: Mapping[str, RegistryEntry] = REGISTRY
) -> Published:
    """Give what an entry knows of a kind of derivative.

    Raises
    ------
    UsageError
        It knows none; the message names the datasets of the registry that have some.
    """
    if kind not in entry.derivatives:
        known = "; ".join(f"{name} ({', '.join(each.derivatives)})" for name, each in registry.items())
        raise UsageError(
            f"fetch {source} --with {kind}: no {kind} of this dataset are known. Those of these are: {known}.",
            "Name the dataset by its accession number; or fetch the derivative by its own address, "
            "`titan-neuro fetch URL DIR`, and name it to the next stage with `-d DIR`.",
        )
    return entry.derivatives[kind]


def is_url(source: str) -> bool:
    """Whether a source is an address, not a path."""
    return _URL.match(source) is not None
