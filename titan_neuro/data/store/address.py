"""The location of a store: a folder of this machine, or a URL that fsspec can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.storage import FsspecStore

from titan_neuro.errors import InputNotFoundError, MismatchError


def is_url(path: Path | str) -> bool:
    """Whether a location is a URL, which fsspec reads."""
    return isinstance(path, str) and "://" in path


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path within it.

    Raises
    ------
    InputNotFoundError
        fsspec does not know the scheme, or its driver is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url, **options)
        return system, str(path)
    except (ImportError, ValueError) as error:
        raise InputNotFoundError(
            f"{url}: can't be read: {error}.",
            "Install the driver of that scheme with pip: s3fs for s3://, gcsfs for gs://, adlfs for abfs://.",
        ) from error


def open_group(path: Path | str) -> zarr.Group:
    """Open a store's group for reading only.

    Parameters
    ----------
    path : Path or str
        A folder, or a URL.

    Raises
    ------
    InputNotFoundError
        There is nothing at `path`, or it can't be reached.
    MismatchError
        `path` is no Zarr group.
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
    # A server does not answer: each driver has its own errors.
    except Exception as error:
        raise InputNotFoundError(
            f"{path}: can't be reached: {type(error).__name__}: {error}.", "Check the address and your permissions."
        ) from error
