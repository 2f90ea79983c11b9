"""The comparison models are as large as the model, see what they may see, and can learn what lies within it."""

import dataclasses

import pytest
import torch

from titan_neuro.errors import ConfigError
from titan_neuro.forecaster import ForecasterConfig, count_parameters, match_comparison_models
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.study.config import PRESETS
from titan_neuro.titans.models import GRUConfig, LMMConfig, MACConfig, MAGConfig, TransformerConfig

N_FEATURES = 60


def a_mask():
    return torch.rand(8, 9, 8, generator=torch.Generator().manual_seed(0)) > 0.5


def models():
    """Models of every preset but the largest, and of other variants and sizes."""
    found = {name: PRESETS[name]().model for name in ("debug", "cpu-small", "parcels")}
    plain = {"tokenizer": LinearTokenizerConfig(), "horizons": (1, 2)}
    backbones = {
        "lmm": LMMConfig(dim=32, tokens_per_time_point=1),
        "mag": MAGConfig(dim=40, n_layers=3, tokens_per_time_point=1),
        "one-layer": MACConfig(dim=24, n_layers=1, tokens_per_time_point=1, ff_expansion=4),
    }
    return found | {name: ForecasterConfig(backbone=backbone, **plain) for name, backbone in backbones.items()}


MODELS = models()


def sizes(config):
    mask = a_mask() if config.tokenizer.kind == "swin" else None
    return {"n_features": N_FEATURES if mask is None else int(mask.sum()), "mask": mask}


@pytest.mark.parametrize("name", MODELS)
def test_comparison_models_have_as_many_parameters(name):
    config = MODELS[name]
    model = config.build(**sizes(config))
    own = sum(parameter.numel() for parameter in model.parameters())
    comparison_models = [
        comparison_model.build(**sizes(config)) for comparison_model in match_comparison_models(config, **sizes(config))
    ]
    assert [comparison_model.name for comparison_model in comparison_models] == ["gru", "transformer-20"]
    for comparison_model in comparison_models:
        found = sum(parameter.numel() for parameter in comparison_model.parameters())
        assert abs(found - own) < 0.01 * own
        # Tokenizer, linear skip, decoder and horizons are those of the model.
        assert comparison_model.config.recall is None
        assert dataclasses.replace(comparison_model.config, backbone=config.backbone, recall=config.recall) == config
        assert comparison_model.config.backbone.n_layers == config.backbone.n_layers
        # As wide as it may be: the feed-forward part is no place to hide parameters in.
        expansion = comparison_model.config.backbone.ff_width / comparison_model.config.backbone.dim
        assert config.backbone.ff_expansion <= expansion < 2.5 * config.backbone.ff_expansion


def test_a_comparison_model_is_not_compared_with_itself():
    plain = {"tokenizer": LinearTokenizerConfig(), "horizons": (1, 2)}
    gru = ForecasterConfig(backbone=GRUConfig(tokens_per_time_point=1), **plain)
    assert [r.backbone.name for r in match_comparison_models(gru, n_features=N_FEATURES)] == ["transformer-20"]
    longer = ForecasterConfig(backbone=TransformerConfig(window_time_points=80, tokens_per_time_point=1), **plain)
    assert longer.backbone.name == "transformer-80"
    assert [r.backbone.name for r in match_comparison_models(longer, n_features=N_FEATURES)] == [
        "gru",
        "transformer-20",
    ]


def test_models_too_small_to_match_are_refused():
    tiny = ForecasterConfig(
        tokenizer=LinearTokenizerConfig(),
        backbone=GRUConfig(dim=1, n_layers=1, ff_width=1, tokens_per_time_point=1),
        horizons=(1,),
        decoder=LowRankConfig(rank=1),
    )
    with pytest.raises(ConfigError, match=r"found \d+ in the nearest transformer-20: more than 5% apart"):
        match_comparison_models(tiny, n_features=1)


def test_counting_draws_no_random_number():
    config = MODELS["parcels"]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    count_parameters(config, n_features=N_FEATURES)
    assert torch.equal(torch.rand(3), expected)


def cues(generator, lag, batch=32, dim=16):
    """Noise with one clear sign somewhere in it; what is asked `lag` time points after it is the sign."""
    x = 0.3 * torch.randn(batch, 8 + lag, dim, generator=generator)
    sign = torch.randint(2, (batch,), generator=generator) * 2.0 - 1.0
    time_point = torch.randint(8, (batch,), generator=generator)
    x[torch.arange(batch), time_point, 0] = 3.0
    x[torch.arange(batch), time_point, 1] = 3.0 * sign
    return x, sign, time_point + lag


def fraction_remembered(config, lag, n_steps=100):
    """Train the backbone to tell the sign, and count how often it is right about new ones."""
    torch.manual_seed(0)
    model, read = config.build(), torch.nn.Linear(config.dim, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *read.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def answers():
        x, sign, asked = cues(generator, lag)
        return read(model(x)[0])[torch.arange(len(x)), asked, 0], sign

    for _ in range(n_steps):
        answer, sign = answers()
        optimizer.zero_grad()
        (answer - sign).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        right = [(answer.sign() == sign).float().mean() for answer, sign in (answers() for _ in range(20))]
    return float(torch.stack(right).mean())


SIZE = {"dim": 16, "n_layers": 2, "tokens_per_time_point": 1, "ff_width": 32}


@pytest.mark.parametrize(("lag", "knows"), [(19, True), (20, False)])
def test_the_transformer_learns_within_its_window_only(lag, knows):
    share = fraction_remembered(TransformerConfig(n_heads=2, **SIZE), lag)
    assert share > 0.95 if knows else share < 0.6


@pytest.mark.parametrize("lag", [15, 40])
def test_the_gru_learns_beyond_the_window(lag):
    assert fraction_remembered(GRUConfig(**SIZE), lag) > 0.95
