"""A backbone whose memory is known exactly, and forecasters for the tests of probes."""

import dataclasses

import numpy as np
import torch

from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.probing import ProbedFold, ProbeSetup
from titan_neuro.runs import InMemoryRun
from titan_neuro.titans.models import BackboneState, MACConfig

REACH, N_FEATURES = 12, 6


@dataclasses.dataclass(frozen=True)
class DelayState(BackboneState):
    """The last tokens, which are still to be recalled."""

    past: torch.Tensor


class Delay(torch.nn.Module):
    """Recall the token `reach` time points back; 0 where its stream began later."""

    def __init__(self, reach, n_features):
        super().__init__()
        self.reach, self.n_features = reach, n_features

    def init_state(self, batch):
        return DelayState({}, (), torch.zeros(batch, self.reach, self.n_features))

    def forward(self, tokens, state=None, *, memory_frozen=False):
        state = state or self.init_state(len(tokens))
        both = torch.cat([state.past, tokens], dim=1)
        return both[:, : tokens.shape[1]], DelayState({}, (), both[:, tokens.shape[1] :])


def mac_forecaster(n_features=N_FEATURES, *, recall=None, backbone=None):
    """A small forecaster that was never trained; its linear skip is 0."""
    torch.manual_seed(0)
    backbone = backbone or MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=8)
    config = ForecasterConfig(
        tokenizer=LinearTokenizerConfig(n_tokens=1),
        backbone=backbone,
        recall=recall,
        horizons=(1, 2),
        decoder=LowRankConfig(rank=4),
    )
    return config.build(n_features=n_features).eval()


def forecasting_mac():
    """A small forecaster with a recall, whose random decoder forecasts something."""
    model = mac_forecaster(recall=RecallConfig())
    with torch.no_grad():
        model.decoder.patterns.normal_(std=0.1)
    return model


def delay_forecaster():
    """A forecaster whose only memory is the delay; at lead time 1 it forecasts 0.9 times what it recalls, else 0."""
    model = mac_forecaster()
    model.tokenizer = torch.nn.Module()
    model.tokenizer.forward = lambda series: series[:, :, None]
    model.backbone.stack = Delay(REACH, N_FEATURES)
    model.decoder = torch.nn.Module()
    model.decoder.forward = lambda tokens: torch.stack([0.9 * tokens[:, :, 0], 0 * tokens[:, :, 0]], dim=2)
    return model


def delayed_run(
    subject="01", seed=0, *, stimulus="stimulus", stimulus_start=0, n_time_points=240, task="x", n_unscored=20
):
    """Time point t is noise plus 0.9 times time point t - REACH - 1: a linear skip of 0 forecasts nothing of it."""
    series = np.random.default_rng(seed).normal(size=(240, N_FEATURES))
    for t in range(REACH + 1, len(series)):
        series[t] += 0.9 * series[t - REACH - 1]
    series = torch.from_numpy((series / series.std()).astype(np.float32))[:n_time_points]
    scored = np.arange(n_time_points) >= n_unscored
    key = f"sub-{subject}_task-{task}"
    return InMemoryRun(series, scored, key, subject, stimulus, stimulus_start=stimulus_start)


def probe_setup(**settings):
    """A setup for models of `mac_forecaster`."""
    defaults = {"repetition_time": 1.0, "horizons": (1, 2), "n_features": N_FEATURES}
    return ProbeSetup(**{**defaults, "n_permutations": 100, "n_resamples": 1000, "seed": 0, **settings})


def run_probe(probe, *folds):
    """Add the test runs of all folds, and return the results."""
    for fold in folds:
        for run in fold.test_runs:
            probe.add(fold, run)
    return probe.results()


def fold_of(model, test_runs=(), training_runs=(), untrained_model=None):
    """A fold; without an untrained model the control is the model itself."""
    return ProbedFold(
        model=model,
        untrained_model=untrained_model or model,
        test_runs=list(test_runs),
        training_runs=list(training_runs),
    )
