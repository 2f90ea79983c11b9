import pytest

from titan_neuro.probing.tools.results import signed


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0004, "+0.000"), (0.25, "+0.250"), (-0.25, "-0.250"), (-0.0, "+0.000")]
)
def test_a_rounded_zero_has_no_minus(value, text):
    assert signed(value) == text
