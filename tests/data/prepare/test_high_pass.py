import numpy as np
import pytest
from scipy.signal import butter, sosfilt, sosfilt_zi

from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.errors import ConfigError


@pytest.fixture
def bold():
    rng = np.random.default_rng(0)
    return 900 + np.cumsum(rng.normal(size=(150, 7)), axis=0)


def test_equals_butterworth_started_in_steady_state(bold):
    sections = butter(2, 0.01, "highpass", fs=1.0, output="sos")
    state = sosfilt_zi(sections)[..., None] * bold[0]
    expected, _ = sosfilt(sections, bold, axis=0, zi=state)
    found = CausalHighPass(7, 0.01, 1.0)(bold)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found[0] == 0).all()


def test_a_constant_gives_zero_for_ever():
    assert (CausalHighPass(1, 0.01, 1.0)(np.full((500, 1), 12345.678)) == 0).all()


@pytest.mark.parametrize(("frequency_hz", "gain"), [(0.001, 0.0156), (0.008, np.sqrt(0.5)), (0.1, 1.0)])
def test_gain_of_slow_drifts_and_fast_signals(frequency_hz, gain):
    time = np.arange(10_000) * 0.8
    found = CausalHighPass(1, 0.008, 0.8)(np.sin(2 * np.pi * frequency_hz * time)[:, None])[5000:]
    assert np.sqrt(2) * found.std() == pytest.approx(gain, abs=2e-3)


@pytest.mark.parametrize("cutoff_hz", [0.0, -0.1, 0.25, 1.0])
def test_a_cut_off_outside_the_spectrum_is_refused(cutoff_hz):
    with pytest.raises(ConfigError, match=r"below the Nyquist frequency: found .*Nyquist 0.25 Hz"):
        CausalHighPass(1, cutoff_hz, 2.0)
