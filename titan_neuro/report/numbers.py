"""Numbers as the page writes them."""

from __future__ import annotations

import math

import pandas as pd

from titan_neuro.evaluation.formatting import NOT_AVAILABLE

MINUS = "\N{MINUS SIGN}"


def number(value: float, decimals: int = 3) -> str:
    """A score with so many decimals, or with one from 10 on; ``n/a`` where it is not finite."""
    if not math.isfinite(value):
        return NOT_AVAILABLE
    digits = decimals if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def formula(text: str) -> str:
    """A formula with minus signs and squares in place of ``-`` and ``^2``."""
    return text.replace("-", MINUS).replace("^2", "\N{SUPERSCRIPT TWO}")


def interval(low: float, high: float, decimals: int = 3) -> str:
    """An interval: ``0.010 to 0.050``; empty where it has no ends."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, decimals)} to {number(high, decimals)}"


def p_value(p: float) -> str:
    """A p value: ``0.031``, ``0.0042``, ``< 0.0001``; empty where there is none."""
    if not math.isfinite(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """A duration: ``4.2 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if not math.isfinite(seconds):
        return NOT_AVAILABLE
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_range(counts: pd.Series) -> str:
    """The smallest and the largest of some counts: ``3,480 to 3,588``; one number where they are equal."""
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
