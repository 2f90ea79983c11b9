"""The adapter of MONAI's Swin: volumes of every size, a few time points at a time, frozen where it is asked."""

import dataclasses

import pytest
import torch

from titan_neuro.forecaster.decoders import UpsamplingConfig, UpsamplingDecoder
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.forecaster.tokenizers import swin as module

TINY = SwinTokenizerConfig(embed_dim=3, num_heads=(1, 2, 3, 4), token_grid=(2, 1, 2))


def make(shape=(8, 9, 6), config=TINY):
    torch.manual_seed(0)
    return SwinTokenizer(config, torch.rand(shape) > 0.5, dim=8)


def frames_of(tokenizer, n_time_points=5):
    return torch.randn(2, n_time_points, int(tokenizer.mask.sum()), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("shape", "patch_size", "window_size"),
    [
        ((24, 24, 24), 2, 3),
        ((14, 17, 14), 3, 3),
        ((10, 6, 10), 2, 4),
        ((25, 31, 23), 4, 4),
        ((61, 73, 61), 6, 4),
        ((96, 96, 96), 8, 4),
        pytest.param((97, 115, 97), 2, 4, marks=pytest.mark.slow),
    ],
)
def test_volumes_of_any_size_are_encoded_and_decoded(shape, patch_size, window_size):
    """Far corners matter as much as near ones: the last voxel along each axis is seen and is forecast."""
    config = dataclasses.replace(TINY, patch_size=patch_size, window_size=window_size, token_grid=(2, 2, 2))
    tokenizer = make(shape, config)
    decoder = UpsamplingDecoder(
        UpsamplingConfig(channels=2),
        mask=tokenizer.mask,
        token_grid=(2, 2, 2),
        patch_size=patch_size,
        dim=8,
        n_horizons=2,
    )
    torch.nn.init.normal_(decoder.to_voxels.weight)
    series = frames_of(tokenizer, 1)[:1].requires_grad_()
    forecasts = decoder(tokenizer(series))
    assert forecasts.shape == (1, 1, 2, series.shape[-1])
    assert forecasts.isfinite().all()
    assert forecasts[0, 0].std(dim=1).gt(0).all()
    forecasts[..., -1].sum().backward()
    assert series.grad[0, 0].ne(0).float().mean() > 0.99


def test_chunks_change_nothing(monkeypatch):
    whole = make()
    monkeypatch.setattr(module, "_CHUNK_BYTES", 3 * 4 * whole.maps.n_numbers)
    parts = make()
    assert whole._time_points_at_once > 10
    assert parts._time_points_at_once == 3
    results = []
    for tokenizer in (whole, parts):
        tokens = tokenizer(frames_of(tokenizer))
        tokens.square().mean().backward()
        results.append((tokens.detach(), {name: value.grad for name, value in tokenizer.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_tokens_are_the_projected_features():
    tokenizer = make()
    series = frames_of(tokenizer)
    features = tokenizer.features(series)
    assert features.shape == (2, 5, 4, sum(TINY.map_widths)) == (2, 5, 4, 93)
    assert torch.equal(tokenizer.project(features), tokenizer(series))
    # The first map, pooled: MONAI's own call on the volume, averaged over each half of the first axis.
    volume = torch.zeros(1, 1, 8, 9, 6)
    volume[0, 0, tokenizer.mask] = series[0, 3]
    finest = tokenizer.swin(volume)[0]
    assert finest.shape == (1, 3, 4, 5, 3)
    halves = finest[0, :, :, :, :2].reshape(3, 2, 2, 5, 2).mean((2, 3, 4))
    torch.testing.assert_close(features[0, 3, [0, 2], :3], halves.T)


def test_a_frozen_swin_has_no_gradient():
    tokenizer = make(config=dataclasses.replace(TINY, frozen=True)).train()
    assert not any(layer.training for layer in tokenizer.swin.modules())
    assert tokenizer.projections.training
    tokenizer(frames_of(tokenizer)).square().mean().backward()
    assert all(parameter.grad is None for parameter in tokenizer.swin.parameters())
    assert all(parameter.grad.any() for parameter in [tokenizer.position, *tokenizer.projections.parameters()])
    # Where nothing is learned, attention is computed otherwise.
    with torch.no_grad():
        assert torch.equal(tokenizer.features(frames_of(tokenizer)), make().features(frames_of(tokenizer)))
