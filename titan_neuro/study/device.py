"""On which device a model runs."""

from __future__ import annotations

import torch

from titan_neuro.errors import UsageError


def torch_device(name: str) -> str:
    """Turn ``auto`` into a GPU where there is one, else the CPU; check any other name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "cuda:N"}

    Raises
    ------
    UsageError
        No such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this machine has no usable GPU.", "Use --device cpu.")
    if kind not in {"cpu", "cuda"} or (index and not index.isdecimal()):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N.")
    if index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0.")
    return name
