"""Where a store lies: a folder of this machine, or an address that fsspec knows how to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.storage import FsspecStore

from titan_neuro.errors import InputNotFoundError, MismatchError


def is_url(path: Path | str) -> bool:
    """Whether fsspec has to be asked."""
    return isinstance(path, str) and "://" in path


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path within it.

    Raises
    ------
    InputNotFoundError
        The address has a scheme that fsspec does not know, or whose driver is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise InputNotFoundError(
            f"{url}: can't be read: {error}.",
            "Install the driver of that scheme with pip: s3fs for s3://, gcsfs for gs://, adlfs for abfs://.",
        ) from error


def open_group(path: Path | str) -> zarr.Group:
    """Open a store's group for reading only.

    Raises
    ------
    InputNotFoundError
        There is nothing at `path`, or it can't be reached.
    MismatchError
        What is there is no Zarr group.
    """
    store: Any = path
    if is_url(path):
        file_system(str(path))
        store = FsspecStore.from_url(str(path), read_only=True)
    try:
        return zarr.open_group(store, mode="r", zarr_format=3)
    except FileNotFoundError as error:
        raise InputNotFoundError(
            f"{path}: no prepared run is stored here.", "Run `titan-neuro prepare` first."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise MismatchError(f"{path}: not a Zarr group: {error}.", "Prepare the run again.") from error
    # A server that does not answer: each driver has errors of its own.
    except Exception as error:
        raise InputNotFoundError(
            f"{path}: can't be reached: {type(error).__name__}: {error}.", "Check the address and your rights."
        ) from error
