"""What the memory holds: one module a probe."""

from titan_neuro.probing.context_length import ContextLengthConfig, ContextLengthProbe

__all__ = ["ContextLengthConfig", "ContextLengthProbe"]
