"""Names of the implementations of the memory, for settings: no torch is imported here."""

from __future__ import annotations

from typing import Literal

Backend = Literal["auto", "naive", "chunked", "native", "triton"]
