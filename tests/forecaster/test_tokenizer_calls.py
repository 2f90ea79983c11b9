"""Volumes are encoded a few at a time; tokens are those that MONAI makes of each alone."""

import pytest
import torch
from torch import nn

from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    mask = torch.zeros(11, 12, 9, dtype=torch.bool)
    mask[2:9, 1:11, 1:8] = True
    config = SwinTokenizerConfig(embed_dim=4, num_heads=(1, 2, 4, 8), depths=(2, 1, 1, 1), token_grid=(2, 2, 1))
    return SwinTokenizer(config, mask, 10)


@pytest.fixture(scope="module")
def series(tokenizer):
    return torch.randn(2, 7, int(tokenizer.mask.sum()), generator=torch.Generator().manual_seed(1))


def tokens_of_monai(tokenizer, time_point):
    """Tokens of one time point, by MONAI's transformer with its default settings."""
    volume = torch.zeros(tokenizer.mask.shape).masked_scatter(tokenizer.mask, time_point)
    tokens = tokenizer.position
    for values, project in zip(tokenizer.swin(volume[None, None]), tokenizer.projections, strict=True):
        pooled = nn.functional.adaptive_avg_pool3d(values, tokenizer.token_grid)
        tokens = tokens + project(pooled[0].flatten(1).T)
    return tokens


@pytest.mark.parametrize("n_volumes", [1, 3, 100])
def test_tokens_are_those_of_each_time_point_alone(tokenizer, series, monkeypatch, n_volumes):
    monkeypatch.setattr(tokenizer, "_volumes_at_once", n_volumes)
    expected = torch.stack(
        [torch.stack([tokens_of_monai(tokenizer, time_point) for time_point in run]) for run in series]
    )
    assert expected.requires_grad
    torch.testing.assert_close(tokenizer(series), expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(tokenizer(series), expected.detach(), atol=1e-5, rtol=1e-5)


def test_large_volumes_are_encoded_one_by_one():
    small = SwinTokenizer(SwinTokenizerConfig(), torch.ones(24, 24, 24, dtype=torch.bool), 8)
    # A patch has 8 voxels and 12 channels.
    assert small._volumes_at_once == 8 * 2**20 // (4 * 12 * 12**3)
    wide = SwinTokenizerConfig(embed_dim=192, num_heads=(1, 1, 1, 1))
    assert SwinTokenizer(wide, torch.ones(48, 48, 48, dtype=torch.bool), 8)._volumes_at_once == 1
