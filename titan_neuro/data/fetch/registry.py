"""The registry of datasets that `fetch` knows by name: their addresses, and the commits that results refer to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from titan_neuro.data.fetch.address import is_url, parse_ria
from titan_neuro.errors import InputNotFoundError, UsageError

DerivativeKind = Literal["transforms", "fmriprep"]

_ACCESSION = re.compile(r"^ds\d{6}$")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published state of a DataLad dataset.

    Attributes
    ----------
    url : str
        Address, or path, to clone from.
    commit : str or None
        Full hash of the commit to check out; None for the latest.
    name : str
        Of a derivative: its folder in the raw clone's ``derivatives/``.
    root : str
        Root of the BIDS dataset within the clone (the folder of ``dataset_description.json``).
    """

    url: str
    commit: str | None = None
    name: str = ""
    root: str = "."


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """A raw dataset, and published derivatives of it.

    Attributes
    ----------
    raw : Published
    derivatives : mapping of {"transforms", "fmriprep"} to Published
    """

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
    """Resolve a source to an entry of the registry, or to a dataset that is known by its address alone.

    An accession number is looked up; without an entry it is the latest state of OpenNeuro's dataset. A folder of that
    name takes precedence, unless it is `directory`, the clone itself. An address is the latest state there, never a
    pinned one.

    Parameters
    ----------
    source : str
        An accession number such as ``ds003017``, a URL, or a path.
    directory : Path
        Folder of the clone, existing or new.
    registry : mapping
        Entries by accession number.

    Raises
    ------
    InputNotFoundError
        `source` is a path that does not exist.
    UsageError
        `source` is an address in a RIA store that names no dataset.
    """
    if is_url(source):
        parse_ria(source)
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
    """Return an entry's derivative of one kind.

    Parameters
    ----------
    entry : RegistryEntry
    kind : {"transforms", "fmriprep"}
    source : str
        As the user named the dataset, for the message.
    registry : mapping
        Entries by accession number, for the message.

    Raises
    ------
    UsageError
        The entry has none; the message lists the datasets of the registry that have derivatives.
    """
    if kind not in entry.derivatives:
        listed = "; ".join(f"{name} ({', '.join(each.derivatives)})" for name, each in registry.items())
        raise UsageError(
            f"fetch {source} --with {kind}: no {kind} of this dataset are known. Datasets with derivatives: {listed}.",
            "Name the dataset by its accession number; or fetch the derivative by its own address, "
            "`titan-neuro fetch URL DIR`, and give it to the next stage with `-d DIR`.",
        )
    return entry.derivatives[kind]
