"""Fixtures of the package's tests; they need nothing of the rest of Titan-Neuro."""

import jaxtyping
import pytest


@pytest.fixture
def without_shape_checks():
    """Let a wrong argument reach our own message, ahead of that of the checks that the tests add (beartype's)."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
