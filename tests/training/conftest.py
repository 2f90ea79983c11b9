"""A fold of four small volume runs: smooth spatial patterns with autocorrelated strengths, and noise."""

import numpy as np
import pytest

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.forecaster import ForecasterConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizerConfig
from titan_neuro.titans.models import MACConfig
from titan_neuro.training import FoldData

SHAPE, N_TIME_POINTS = (6, 7, 5), 90
VOLUME_MODEL = ForecasterConfig(
    tokenizer=SwinTokenizerConfig(embed_dim=4, num_heads=(1, 2, 4, 8), token_grid=(1, 2, 1)),
    backbone=MACConfig(dim=8, n_layers=1, n_heads=2, tokens_per_time_point=2, segment_time_points=16),
    recall=RecallConfig(width=8, n_components=4, autoregressive_lags=2, key_lags=2, key_components=4, group_width=4),
    horizons=(1, 2),
    decoder=LowRankConfig(rank=4),
)


def volume_time_points(mask, number, n_time_points=N_TIME_POINTS):
    rng = np.random.default_rng(number)
    places = np.argwhere(mask) / 3
    patterns = np.stack([np.sin(places @ direction) for direction in ((1, 0, 0.5), (0, 1, 0), (0.5, 0.5, 1))])
    strengths = rng.normal(size=(n_time_points, 3))
    for t in range(1, n_time_points):
        strengths[t] += 0.6 * strengths[t - 1]
    return (strengths @ patterns + 0.3 * rng.normal(size=(n_time_points, len(places)))).astype(np.float32)


@pytest.fixture
def volume_fold(tmp_path):
    mask = np.random.default_rng(7).random(SHAPE) > 0.2
    space = Space(kind="volume", name="native", mask=mask, affine=np.eye(4))
    runs = {}
    for number in range(4):
        header = RunHeader(
            key=f"sub-0{number}_task-x",
            entities={"subject": f"0{number}", "task": "x"},
            repetition_time=1.0,
            space=space,
            scored=np.arange(N_TIME_POINTS) >= 5,
            record={"fingerprint": str(number), "normalizer": {"method": "none"}},
        )
        path = tmp_path / "out" / f"sub-0{number}_task-x_desc-prepared_bold.zarr"
        write_run(path, header, [volume_time_points(mask, number)])
        runs[header.key] = RunStore(path).within(space)
    keys = tuple(runs)
    return FoldData(fold=Fold(1, keys[:2], keys[2:3], keys[3:]), protocol="subject", space=space, runs=runs)


@pytest.fixture
def volume_model():
    return VOLUME_MODEL
