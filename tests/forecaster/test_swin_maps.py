"""The maps of a Swin, computed without what is the same in every volume: MONAI's own forward pass is the reference."""

import itertools
import random

import pytest
import torch
from torch import nn

from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig, swin_layers
from titan_neuro.forecaster.tokenizers.swin_layout import lay_out_patches

HEADS = (1, 2, 4, 8)


def tokenizer_of(mask, *, dtype=torch.float64, **settings):
    """Weights far from those of a new Swin, whose norms and biases would hide what is forgotten."""
    torch.manual_seed(0)
    config = SwinTokenizerConfig(**{"embed_dim": 4, "num_heads": HEADS, "token_grid": (2, 1, 3)} | settings)
    tokenizer = SwinTokenizer(config, mask, 5).to(dtype)
    with torch.no_grad():
        for parameter in tokenizer.swin.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return tokenizer


def maps_of_monai(tokenizer, series):
    """MONAI's maps of whole volumes, pooled in float64."""
    volumes = series.new_zeros(len(series), *tokenizer.mask.shape)
    volumes[:, tokenizer.mask] = series
    maps = tokenizer.swin(volumes[:, None])
    pooled = [nn.functional.adaptive_avg_pool3d(values.double(), tokenizer.token_grid) for values in maps]
    return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)


def series_of(tokenizer, n_volumes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_volumes, int(tokenizer.mask.sum()), generator=generator, dtype=tokenizer.position.dtype)


def assert_same_in_both_passes(tokenizer):
    series = series_of(tokenizer).requires_grad_()
    found, expected = tokenizer.maps(series, tokenizer.swin), maps_of_monai(tokenizer, series)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = [series, *tokenizer.swin.parameters()]
    gradients = [torch.autograd.grad((maps * weights).sum(), inputs) for maps in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def any_mask(kind, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    if kind == "full":
        mask[:] = True
    elif kind == "one voxel on an edge":
        mask[shape[0] // 2, shape[1] // 2, 0] = True
    elif kind == "box":
        mask[: shape[0] // 2 + 1, : shape[1] // 2 + 1, shape[2] // 3 :] = True
    elif kind == "scattered":
        mask[torch.rand(shape) < 0.04] = True
        mask[-1, -1, -1] = True
    return mask


KINDS = ("full", "one voxel on an edge", "box", "scattered")


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param(kind, seed, marks=[pytest.mark.slow] if seed > 2 else [])
        for kind, seed in itertools.product(KINDS, range(15))
    ],
)
def test_maps_and_gradients_are_monais(kind, seed):
    draw = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed)
    patch_size = draw.choice([1, 2, 3])
    shape = [draw.randint(2, 8 * patch_size) for _ in range(3)]
    settings = {
        "patch_size": patch_size,
        "window_size": draw.choice([1, 2, 3, 4]),
        "depths": tuple(draw.randint(1, 3) for _ in HEADS),
        "token_grid": tuple(draw.randint(1, 3) for _ in range(3)),
    }
    assert_same_in_both_passes(tokenizer_of(any_mask(kind, shape), **settings))


def test_constant_and_shifted_windows_of_four_stages_are_monais():
    """Large enough for windows of constants in every stage, shifted and cut by the volume's edges."""
    mask = torch.zeros(62, 9, 12, dtype=torch.bool)
    mask[2:5, 1:3, 10:] = True
    tokenizer = tokenizer_of(mask, window_size=2, depths=(2, 2, 2, 2))
    layouts = [layout for stage in tokenizer.maps.stages for layout in stage.blocks]
    assert all(layout.n_constant_groups for layout in layouts[:4])
    assert [len(layout.masks) > 1 for layout in layouts] == [False, True] * 4
    assert_same_in_both_passes(tokenizer)


def test_an_empty_mask_is_encoded():
    tokenizer = tokenizer_of(torch.zeros(7, 6, 9, dtype=torch.bool))
    series = series_of(tokenizer)
    found = tokenizer.maps(series, tokenizer.swin)
    torch.testing.assert_close(found, maps_of_monai(tokenizer, series))


def test_single_precision_is_exact_to_rounding():
    """At 1e-5 of each map's largest value, against maps pooled in double precision."""
    mask = torch.zeros(40, 44, 36, dtype=torch.bool)
    mask[10:29, 8:35, 9:27] = True
    tokenizer = tokenizer_of(mask, dtype=torch.float32, depths=(2, 2, 1, 1), num_heads=(1, 1, 2, 2))
    series = series_of(tokenizer, 1)
    with torch.no_grad():
        found, expected = tokenizer.maps(series, tokenizer.swin), maps_of_monai(tokenizer, series)
    widths = [4, 8, 16, 32, 64]
    for one, other in zip(found.split(widths, dim=-1), expected.split(widths, dim=-1), strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_large_scores_lose_nothing(scale):
    """Scores of hundreds, whose exponentials overflow, and masks of -100 that don't exceed them."""
    tokenizer = tokenizer_of(any_mask("box", (9, 7, 8)), depths=(2, 2, 1, 1), window_size=2)
    with torch.no_grad():
        for block in (*tokenizer.swin.layers1[0].blocks, *tokenizer.swin.layers2[0].blocks):
            block.attn.qkv.weight[: 2 * block.dim] *= scale
            block.attn.relative_position_bias_table *= scale
    assert_same_in_both_passes(tokenizer)


@pytest.mark.parametrize("numbers", [1, 3_000])
def test_chunks_change_nothing(monkeypatch, numbers):
    monkeypatch.setattr(swin_layers, "_CHUNK_NUMBERS", numbers)
    assert_same_in_both_passes(tokenizer_of(any_mask("scattered", (9, 12, 7)), depths=(2, 1, 1, 1)))


def test_autocast_leaves_the_swin_in_full_precision():
    tokenizer = tokenizer_of(any_mask("box", (8, 8, 8)), dtype=torch.float32)
    series, features = series_of(tokenizer)[None], []
    for enabled in (False, True):
        tokenizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features.append(tokenizer.features(series))
        features[-1].square().mean().backward()
        features.append(tokenizer.swin.layers1[0].blocks[0].mlp.linear1.weight.grad.clone())
    torch.testing.assert_close(features[:2], features[2:], rtol=0, atol=0)


def test_parameters_and_saved_names_are_monais():
    from monai.networks.nets.swin_unetr import SwinTransformer

    tokenizer = tokenizer_of(any_mask("box", (8, 8, 8)))
    stock = SwinTransformer(1, 4, (4, 4, 4), (2, 2, 2), (1, 1, 1, 1), HEADS)
    stock.load_state_dict(tokenizer.swin.state_dict())
    assert set(tokenizer.state_dict()) == {
        "mask", "position", *(f"projections.{map_}.weight" for map_ in range(5)),
        *(f"swin.{name}" for name in stock.state_dict()),
    }  # fmt: skip


def test_only_windows_near_the_mask_are_computed_per_volume():
    mask = torch.zeros(64, 64, 64, dtype=torch.bool)
    mask[8:24, 8:24, 8:24] = True
    tokenizer = tokenizer_of(mask, depths=(2, 1, 1, 1))
    first, shifted = tokenizer.maps.stages[0].blocks
    # 512 windows of 8 voxels a side. The mask fills 8 of them; all others are one window. Shifted by half a window,
    # 27 touch those 8, and of the rest some join opposite sides.
    assert (len(first.groups), first.n_constant_groups) == (9, 1)
    assert len(shifted.groups) - shifted.n_constant_groups == 27
    assert shifted.n_constant_groups == len(shifted.masks) == 8


def test_patches_hold_the_voxels_of_the_mask():
    mask = any_mask("scattered", (5, 7, 3))
    tokens, voxels = lay_out_patches(mask, 2)
    assert tokens.rows.shape == (3, 4, 2)
    assert sorted(voxels[voxels > 0].tolist()) == list(range(1, int(mask.sum()) + 1))
    assert tokens.n_varying == len(voxels) == int((tokens.rows > tokens.n_constant).sum())
