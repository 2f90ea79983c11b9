"""The probe must find a memory of known reach, and must say what streaming the model says."""

import numpy as np
import pytest
import torch
from delay_memory import Delay

from titan_neuro.errors import NoMatchError
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import ParcelTokenizerConfig
from titan_neuro.probing import ContextLengthConfig, ContextLengthProbe, ProbeContext, ProbedFold
from titan_neuro.titans.models import MACConfig

REACH, N_FEATURES = 12, 6


class Run:
    """Time point t is new noise plus what time point t - REACH was: the linear skip, which is 0, knows nothing of it."""

    key, subject, n_time_points, n_features = "sub-01_task-x", "01", 240, N_FEATURES

    def __init__(self, subject="01", seed=0):
        self.subject = subject
        rng = np.random.default_rng(seed)
        series = rng.normal(size=(self.n_time_points, N_FEATURES))
        for t in range(REACH + 1, self.n_time_points):
            series[t] += 0.9 * series[t - REACH - 1]
        self.series = torch.from_numpy((series / series.std()).astype(np.float32))
        self.scored, self.high_motion = np.arange(self.n_time_points) >= 20, np.zeros(self.n_time_points, dtype=bool)

    def read(self, start, stop):
        return self.series[start:stop]


def forecaster():
    torch.manual_seed(0)
    config = ForecasterConfig(
        tokenizer=ParcelTokenizerConfig(n_tokens=1),
        backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=8),
        horizons=(1, 2),
        decoder=LowRankConfig(rank=4),
    )
    model = config.build(n_features=N_FEATURES).eval()
    with torch.no_grad():
        model.decoder.patterns.normal_(std=0.1)
    return model


def delay_model():
    """A forecaster whose backbone, its only memory, is the delay line, and whose head passes on what it recalls."""
    model = forecaster()
    model.tokenizer = torch.nn.Module()
    model.tokenizer.forward = lambda series: series[:, :, None]
    model.backbone, model.recall = Delay(REACH, N_FEATURES), None
    model.decoder = torch.nn.Module()
    model.decoder.forward = lambda tokens: torch.stack([0.9 * tokens[:, :, 0], 0 * tokens[:, :, 0]], dim=2)
    return model


def probe(config=None):
    return ContextLengthProbe(config or ContextLengthConfig(longest_s=64, targets_per_run=60), metadata())


def metadata(**other):
    given = {"repetition_time": 1.0, "horizons": (1, 2), "n_features": N_FEATURES, **other}
    return ProbeContext(**given, n_permutations=100, n_resamples=1000, seed=0)


def alone(model):
    """A fold of this model, for a probe that asks about nothing else."""
    return ProbedFold(model=model, untrained=model, tests=[], others=[])


def test_a_memory_of_known_reach_is_found():
    found = probe()
    for subject in range(4):
        found.add(alone(delay_model()), Run(str(subject), subject))
    assert found.contexts == (2, 4, 8, 16, 32, 64)
    curve = found.curve()
    at_one = curve[curve.lead_time_points == 1].skill_ar.to_numpy()
    # Shorter than the reach: nothing is recalled. Longer: four fifths of the variance.
    np.testing.assert_allclose(at_one[:3], 0, atol=1e-6)
    assert (at_one[3:] > 0.6).all()
    assert (curve[curve.lead_time_points == 2].skill_ar.abs() < 1e-6).all()
    assert (curve.skill_ar_low <= curve.skill_ar).all() and (curve.skill_ar <= curve.skill_ar_high).all()
    assert (found.timescale() == 16).all()


def test_the_whole_run_is_what_streaming_gives():
    model, run = forecaster(), Run()
    found = probe()
    found.add(alone(model), run)
    forecasts, _ = model.step(run.series, model.init_state())
    targets = found._targets(run)
    for index, horizon in enumerate((1, 2)):
        truth = run.series[targets + horizon]
        beyond = (truth - forecasts[targets, index]).square().sum(0) / truth.square().sum(0)
        _, skill = found.skill()
        np.testing.assert_allclose(skill[0, -1, index], 1 - beyond, atol=1e-4)


def test_a_cut_memory_is_an_empty_one_that_reads_the_last_frames():
    model, run = forecaster(), Run()
    found = probe(ContextLengthConfig(longest_s=4, targets_per_run=5))
    found.add(alone(model), run)
    targets = found._targets(run)
    errors, base = 0, 0
    for target in targets.tolist():
        forecasts, _ = model.step(run.series[target - 3 : target + 1], model.init_state())
        errors += (run.series[target + 1] - forecasts[-1, 0]).square()
        base += run.series[target + 1].square()
    np.testing.assert_allclose(found.skill()[1][0, 1, 0], 1 - errors / base, atol=1e-4)


def test_contexts_are_seconds_in_whole_frames():
    found = ContextLengthProbe(ContextLengthConfig(longest_s=16), metadata(repetition_time=2.5, horizons=(1,)))
    assert found.contexts == (1, 2, 3, 6)
    curve_seconds = [context * 2.5 for context in found.contexts]
    assert curve_seconds == [2.5, 5, 7.5, 15]
    further = ContextLengthConfig(longest_s=16, contexts_time_points=(20, 5, 2))
    found = ContextLengthProbe(further, metadata(repetition_time=2.5, horizons=(1,)))
    assert found.contexts == (1, 2, 3, 5, 6, 20)


def test_a_run_without_targets_is_refused():
    run = Run()
    run.scored = np.zeros(run.n_time_points, dtype=bool)
    with pytest.raises(NoMatchError, match="no time point has scored time points"):
        probe().add(alone(forecaster()), run)
