"""The conversions between correlations, noise ceilings and skills."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from titan_neuro.metrics import ForecastAccumulator, ceiling_on_skill, pooled_skill, shared_variance


@pytest.mark.parametrize("n_others", [1, 4, 11.5])
def test_shared_variance_inverts_the_attenuation(n_others):
    fraction = np.linspace(0, 1, 11)
    with np.errstate(invalid="ignore"):
        r = fraction / np.sqrt(fraction + (1 - fraction) / n_others)
    np.testing.assert_allclose(shared_variance(r, n_others), fraction, atol=1e-12)
    np.testing.assert_allclose(shared_variance(-r, n_others), -fraction, atol=1e-12)
    np.testing.assert_allclose(shared_variance(r, 1e9), r**2, atol=1e-6)
    np.testing.assert_allclose(shared_variance(r, 1), r, atol=1e-12)


def test_ceiling_on_r2_converts_to_one_on_skill():
    rng = np.random.default_rng(4)
    target, locked, reference = rng.normal(size=(3, 500, 6))
    locked, reference = 0.3 * locked + 0.5 * target, 0.2 * target + 0.1 * reference
    sums = ForecastAccumulator(1, 3, 6)
    mean = np.broadcast_to(target.mean(0), target.shape).copy()
    sums.add(0, torch.as_tensor(target), [torch.as_tensor(forecast) for forecast in (mean, locked, reference)])
    error = sums.finish().squared_error[0]
    r2_locked, r2_reference = (r2_score(target, x, multioutput="variance_weighted") for x in (locked, reference))
    assert pooled_skill(error[1], error[0]) == pytest.approx(r2_locked, rel=1e-6)
    assert pooled_skill(error[2], error[0]) == pytest.approx(r2_reference, rel=1e-6)
    expected = pooled_skill(error[1], error[2])
    assert ceiling_on_skill(np.array(r2_locked), np.array(r2_reference)) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(ceiling_on_skill(np.array(0.3), np.array(1.0)))
