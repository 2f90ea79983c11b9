import numpy as np
import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline, Persistence, TrainingMean
from titan_neuro.evaluation import EvaluationConfig, score_fold
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.runs import InMemoryRun
from titan_neuro.titans.models import LMMConfig, MACConfig, MAGConfig


@pytest.fixture(scope="session")
def make_run():
    """Return a function that makes a run of AR(1) noise; its first five time points are not scored."""

    def make(subject, number, *, phi=0.7, n_time_points=160, n_features=30):
        rng = np.random.default_rng([int(subject), number])
        series = rng.normal(size=(n_time_points, n_features))
        for t in range(1, n_time_points):
            series[t] = phi * series[t - 1] + np.sqrt(1 - phi**2) * series[t]
        stimulus = f"task-movie_run-{number:02}"
        values = torch.tensor(series, dtype=torch.float32)
        return InMemoryRun(values, np.arange(n_time_points) >= 5, f"sub-{subject}_{stimulus}", subject, stimulus)

    return make


class Oracle:
    """Given the runs beforehand, forecasts `fraction` of the way from persistence to the target."""

    def __init__(self, runs, fraction, name="oracle", horizons=(1, 3)):
        self.name, self.horizons, self.fraction = name, horizons, fraction
        # A stream may begin anywhere: its first value identifies the run and the time point.
        self.runs = {run.series[t, 0].item(): (run.series, t) for run in runs for t in range(run.n_time_points)}

    def fit(self, runs):
        pass

    def init_state(self):
        return None

    def step(self, series, state):
        run, at = self.runs[series[0, 0].item()] if state is None else state
        forecasts = []
        for t in range(at, at + len(series)):
            targets = torch.stack([run[min(t + h, len(run) - 1)] for h in self.horizons])
            forecasts.append(self.fraction * targets + (1 - self.fraction) * run[t])
        return torch.stack(forecasts), (run, at + len(series))


@pytest.fixture(scope="session")
def oracle():
    return Oracle


@pytest.fixture(scope="session")
def quick():
    """No offsets and no rollouts, so that expected scores can be written down."""
    return EvaluationConfig(n_resamples=2000, max_offset_time_points=0, rollout_every_time_points=0)


@pytest.fixture(scope="session")
def score():
    """Return a function that scores models of one seed, or of several, beside the three plain baselines."""

    def run(models, train_runs, test_runs, config, *, protocol="subject", references=()):
        by_seed = models if isinstance(models, dict) else {0: models}
        horizons = next(iter(by_seed.values()))[0].horizons if any(by_seed.values()) else (1,)
        baselines = [kind(horizons) for kind in (TrainingMean, Persistence, AutoregressionBaseline)]
        return score_fold(by_seed, baselines, references, train_runs, test_runs, config, protocol=protocol)

    return run


@pytest.fixture(scope="session")
def make_forecaster():
    """Return a function that makes a small forecaster with random weights in every learned part."""
    sizes = {"dim": 8, "n_layers": 1, "tokens_per_time_point": 1}
    backbones = {
        "lmm": LMMConfig(**sizes),
        "mac": MACConfig(**sizes, n_heads=2),
        "mag": MAGConfig(**sizes, n_heads=2),
    }

    def make(variant, n_features=6, horizons=(1, 3)):
        tokenizer = LinearTokenizerConfig(n_tokens=1)
        config = ForecasterConfig(
            tokenizer=tokenizer, backbone=backbones[variant], horizons=horizons, decoder=LowRankConfig(rank=4)
        )
        torch.manual_seed(0)
        model = config.build(n_features=n_features)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.linear_skip.coefficients.normal_(std=0.2)
        recall = model.recall
        model.components.basis.copy_(torch.linalg.qr(torch.randn(n_features, recall.width)).Q.mT)
        for fitted in (
            recall.autoregression.directions,
            recall.innovation_directions,
            recall.autoregression.weights,
            model.backbone.memory.directions,
            model.backbone.memory.associations.key_map,
        ):
            fitted.normal_(std=0.2)
        return model.eval()

    return make
