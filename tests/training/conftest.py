"""A fold of four small volume runs: smooth spatial patterns with autocorrelated strengths, and noise."""

import numpy as np
import pytest
from small_folds import read_small_fold, write_small_run

from titan_neuro.data.space import Space
from titan_neuro.forecaster import ForecasterConfig, LookaheadConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizerConfig
from titan_neuro.titans.models import MACConfig

SHAPE, N_TIME_POINTS = (6, 7, 5), 90
VOLUME_MODEL = ForecasterConfig(
    tokenizer=SwinTokenizerConfig(embed_dim=4, num_heads=(1, 2, 4, 8), token_grid=(1, 2, 1)),
    backbone=MACConfig(dim=8, n_layers=1, n_heads=2, tokens_per_time_point=2, segment_time_points=16),
    recall=RecallConfig(width=8, n_components=4, autoregressive_lags=2),
    lookahead=LookaheadConfig(n_lags=2, n_components=4, key_width=16),
    horizons=(1, 2),
    decoder=LowRankConfig(rank=4),
)


def volumes(mask, number):
    rng = np.random.default_rng(number)
    positions = np.argwhere(mask) / 3
    patterns = np.stack([np.sin(positions @ direction) for direction in ((1, 0, 0.5), (0, 1, 0), (0.5, 0.5, 1))])
    strengths = rng.normal(size=(N_TIME_POINTS, 3))
    for t in range(1, N_TIME_POINTS):
        strengths[t] += 0.6 * strengths[t - 1]
    return (strengths @ patterns + 0.3 * rng.normal(size=(N_TIME_POINTS, len(positions)))).astype(np.float32)


@pytest.fixture
def volume_fold(tmp_path):
    mask = np.random.default_rng(7).random(SHAPE) > 0.2
    space = Space(kind="volume", name="native", mask=mask, affine=np.eye(4))
    paths = [tmp_path / "out" / f"sub-0{number}_task-x_desc-prepared_bold.zarr" for number in range(4)]
    for number, path in enumerate(paths):
        write_small_run(path, number, volumes(mask, number), space, scored=np.arange(N_TIME_POINTS) >= 5)
    return read_small_fold(paths, space)


@pytest.fixture
def volume_model():
    return VOLUME_MODEL


@pytest.fixture
def root(base, request):
    """An output folder of the test, beside the stores in the module's folder `base`."""
    root = base / request.node.name.replace("[", "-").replace("]", "")
    root.mkdir()
    return root
