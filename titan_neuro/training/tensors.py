"""Tensors that are computed once, kept in the work folder as safetensors, and loaded by every later training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from titan_neuro.errors import MismatchError
from titan_neuro.files import load_or_make, write_bytes

TensorsAndMetadata = tuple[dict[str, Tensor], dict[str, Any]]


def cached_tensors(
    work_dir: Path, name: str, fingerprint: str, compute: Callable[[], TensorsAndMetadata]
) -> TensorsAndMetadata:
    """Load tensors that were computed before from the same inputs, or compute and save them.

    Parameters
    ----------
    work_dir : Path
        The file is ``<name>-<first 12 digits of the fingerprint>.safetensors``.
    name : str
    fingerprint : str
        Digest of all inputs of the computation.
    compute : callable
        Returns the tensors by name, and metadata (JSON).

    Returns
    -------
    tensors : dict of str to torch.Tensor
        On the CPU.
    metadata : dict

    Raises
    ------
    OutputError
        `work_dir` can't be written.
    """
    path = tensors_path(work_dir, name, fingerprint)
    return load_or_make(
        path,
        work_dir=work_dir,
        load=lambda: _read(path, fingerprint),
        make=lambda: _write(path, fingerprint, *compute()),
    )


def tensors_path(work_dir: Path, name: str, fingerprint: str) -> Path:
    """Return the path of the file of :func:`cached_tensors`."""
    return work_dir / f"{name}-{fingerprint[:12]}.safetensors"


def _write(path: Path, fingerprint: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {"fingerprint": fingerprint, "metadata": json.dumps(metadata)}
    write_bytes(path, save(on_cpu, metadata={**texts, "content": _content(on_cpu, texts["metadata"])}))


def _read(path: Path, fingerprint: str) -> TensorsAndMetadata:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            metadata, saved_fingerprint = json.loads(header["metadata"]), header["fingerprint"]
            if header["content"] != _content(tensors, header["metadata"]):
                raise ValueError("its content was changed")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"{path}: is damaged ({error}).") from error
    if saved_fingerprint != fingerprint:
        raise MismatchError(f"{path}: expected the fingerprint {fingerprint}, found {saved_fingerprint}.")
    return tensors, metadata


def _content(tensors: Mapping[str, Tensor], metadata: str) -> str:
    """Return a digest: safetensors has none, and a changed bit would go into every later training."""
    content = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes as they lie in memory: NumPy has no bfloat16.
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
