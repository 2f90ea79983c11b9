"""Decoders: nothing at first, then what was planted; each time point by itself, however many are decoded at a time."""

import math

import pytest
import torch

from titan_neuro.forecaster.decoders import LowRankConfig, LowRankDecoder, UpsamplingConfig, UpsamplingDecoder
from titan_neuro.forecaster.decoders import upsampling as module

GRID, DIM, HORIZONS = (2, 2, 1), 12, 3
SHAPE, PATCH = (9, 13, 7), 2


def mask_of(shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.4


def upsampling(shape=SHAPE, grid=GRID, patch=PATCH, channels=8):
    torch.manual_seed(0)
    return UpsamplingDecoder(
        UpsamplingConfig(channels=channels),
        mask=mask_of(shape),
        token_grid=grid,
        patch_size=patch,
        dim=DIM,
        n_horizons=HORIZONS,
    )


def low_rank():
    torch.manual_seed(0)
    n_features = int(mask_of().sum())
    return LowRankDecoder(LowRankConfig(rank=5), n_tokens=4, dim=DIM, n_horizons=HORIZONS, n_features=n_features)


def awake(decoder):
    """The same decoder after training has begun: at first all it gives is 0, and no gradient passes."""
    last = decoder.patterns if isinstance(decoder, LowRankDecoder) else decoder.to_voxels.weight
    torch.nn.init.normal_(last, std=0.1)
    return decoder


@pytest.fixture(params=[low_rank, upsampling])
def decoder(request):
    return request.param()


@pytest.fixture
def tokens():
    return torch.randn(2, 7, math.prod(GRID), DIM, generator=torch.Generator().manual_seed(1))


def test_output_starts_at_zero_and_can_be_zeroed(decoder, tokens):
    nothing = torch.zeros(2, 7, HORIZONS, int(mask_of().sum()))
    assert torch.equal(decoder(tokens), nothing)
    assert awake(decoder)(tokens).abs().max() > 0.01
    decoder.zero_output()
    assert torch.equal(decoder(tokens), nothing)


def test_gradients_reach_every_parameter(decoder, tokens):
    awake(decoder)(tokens).square().mean().backward()
    assert [name for name, parameter in decoder.named_parameters() if not parameter.grad.any()] == []


def test_a_time_point_is_decoded_from_its_own_tokens(decoder, tokens):
    other = tokens.clone()
    other[:, 4] += 1
    before, after = awake(decoder)(tokens), decoder(other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert torch.equal(before[:, 5:], after[:, 5:])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_chunks_change_nothing(tokens, monkeypatch):
    whole = awake(upsampling())
    assert whole._time_points_at_once > 14
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 100_000)
    parts = awake(upsampling())
    assert 1 <= parts._time_points_at_once < 14
    results = []
    for made in (whole, parts):
        inputs = tokens.clone().requires_grad_()
        forecasts = made(inputs)
        forecasts.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
        results.append((forecasts.detach(), inputs.grad, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_each_voxel_has_the_value_of_its_patch():
    """With the maps fixed, what the last step does is a reshape of patches to the grid, here written as a loop."""
    made = awake(upsampling())
    mask, maps = mask_of(), {}
    made.to_voxels.register_forward_hook(lambda _layer, _inputs, out: maps.update(by_patch=out))
    forecasts = made(torch.randn(1, 1, math.prod(GRID), DIM))[0, 0]
    used, n_patches = made.patches.tolist(), [-(-length // PATCH) for length in SHAPE]
    for number, (x, y, z) in enumerate(mask.nonzero().tolist()):
        patch = (x // PATCH * n_patches[1] + y // PATCH) * n_patches[2] + z // PATCH
        inside = (x % PATCH * PATCH + y % PATCH) * PATCH + z % PATCH
        values = maps["by_patch"][0, used.index(patch)].view(HORIZONS, PATCH**3)
        assert torch.equal(forecasts[:, number], values[:, inside])
    assert len(used) == len({tuple((place // 2).tolist()) for place in mask.nonzero()})


@pytest.mark.parametrize(
    ("grid", "patches", "sizes"),
    [
        ((2, 2, 2), (12, 12, 12), [(3, 3, 3), (6, 6, 6), (12, 12, 12)]),
        ((3, 3, 3), (48, 48, 48), [(6, 6, 6), (12, 12, 12), (24, 24, 24), (48, 48, 48)]),
        ((2, 2, 2), (31, 37, 31), [(2, 3, 2), (4, 5, 4), (8, 10, 8), (16, 19, 16), (31, 37, 31)]),
        ((1, 1, 1), (5, 3, 5), [(2, 1, 2), (3, 2, 3), (5, 3, 5)]),
        ((4, 4, 4), (3, 3, 3), [(3, 3, 3)]),
    ],
)
def test_grids_double_from_tokens_to_patches(grid, patches, sizes):
    assert module._sizes(grid, patches) == sizes


@pytest.mark.parametrize("make", [low_rank, upsampling])
def test_a_planted_pattern_is_learned(make):
    """A smooth pattern whose strength the tokens tell, and another one at the next horizon."""
    x, y, z = mask_of().nonzero().float().unbind(1)
    patterns = torch.stack([torch.sin(x / 2), torch.cos(y / 3) * torch.sin(z), torch.sin((x + y) / 3)])
    made = make()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(2)

    def draw():
        tokens = torch.randn(4, 8, math.prod(GRID), DIM, generator=generator)
        return tokens, tokens[:, :, 0, :1, None] * patterns

    for _ in range(150):
        tokens, target = draw()
        loss = (made(tokens) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, target = draw()
    with torch.no_grad():
        left = (made(tokens) - target).square().mean() / target.square().mean()
    assert left < 0.2
