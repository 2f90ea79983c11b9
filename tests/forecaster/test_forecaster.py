import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from stimulus_runs import as_run

from titan_neuro.errors import ConfigError, MismatchError, TrainingError
from titan_neuro.forecaster import Forecaster, ForecasterConfig, LookaheadConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig, UpsamplingConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig, SwinTokenizerConfig
from titan_neuro.linear.autoregression import autoregress
from titan_neuro.runs import InMemoryRun
from titan_neuro.titans.models import GRUConfig, LMMConfig, MACConfig, MAGConfig, MALConfig, TransformerConfig

SIZE = {"dim": 16, "n_layers": 1}
BACKBONES = {
    "lmm": LMMConfig(tokens_per_time_point=1, **SIZE),
    "mac": MACConfig(tokens_per_time_point=1, n_heads=2, segment_time_points=8, **SIZE),
    "mag": MAGConfig(tokens_per_time_point=1, n_heads=2, window_time_points=6, **SIZE),
    "mal": MALConfig(tokens_per_time_point=1, n_heads=2, window_time_points=6, **SIZE),
    "gru": GRUConfig(tokens_per_time_point=1, **SIZE),
    "transformer": TransformerConfig(tokens_per_time_point=1, n_heads=2, window_time_points=6, **SIZE),
}

RECALL = RecallConfig(width=16, n_components=8, longest_lag=20)
LOOKAHEAD = LookaheadConfig(n_lags=2, n_components=4, key_width=16)
DECODERS = {"swin": LowRankConfig(rank=4), "swin-upsampling": UpsamplingConfig(channels=4)}


def last_weights(model: Forecaster) -> torch.Tensor:
    """Those of the decoder's last layer, which are 0 in a new model."""
    return model.decoder.to_voxels.weight if hasattr(model.decoder, "to_voxels") else model.decoder.patterns


def make(kind: str) -> Forecaster:
    torch.manual_seed(0)
    if kind in DECODERS:
        mask = torch.rand(6, 10, 7) > 0.4
        tokenizer = SwinTokenizerConfig(embed_dim=4, num_heads=(1, 2, 4, 8), token_grid=(2, 1, 1))
        backbone = dataclasses.replace(BACKBONES["mac"], tokens_per_time_point=2)
        config = ForecasterConfig(
            tokenizer=tokenizer,
            backbone=backbone,
            recall=RECALL,
            lookahead=LOOKAHEAD,
            horizons=(1, 3),
            decoder=DECODERS[kind],
        )
        model = config.build(n_features=int(mask.sum()), mask=mask)
    else:
        config = ForecasterConfig(
            tokenizer=LinearTokenizerConfig(n_tokens=1),
            backbone=BACKBONES[kind],
            recall=RECALL,
            lookahead=LOOKAHEAD,
            horizons=(1, 3),
            decoder=LowRankConfig(rank=4),
        )
        model = config.build(n_features=20)
    with torch.no_grad():
        # A new model forecasts its linear part alone; here every part must take part.
        last_weights(model).normal_()
        model.linear_skip.coefficients.normal_(std=0.1)
    return model.eval()


@pytest.fixture(params=[*DECODERS, *BACKBONES])
def model(request) -> Forecaster:
    return make(request.param)


@pytest.fixture
def series(model):
    return torch.randn(2, 37, model.n_features, generator=torch.Generator().manual_seed(1))


def test_a_new_model_is_the_autoregression(model, series):
    torch.nn.init.zeros_(last_weights(model))
    history = torch.zeros(2, model.linear_skip.coefficients.shape[1] - 1, model.n_features)
    expected, _ = autoregress(series, history, model.linear_skip.coefficients, model.linear_skip.intercept)
    assert torch.equal(model(series)[0], expected)


@pytest.mark.parametrize("time_point", [0, 5, 8, 36])
@torch.no_grad()
def test_later_time_points_change_no_forecast(model, series, time_point):
    other = series.clone()
    other[:, time_point + 1 :] = 5 - other[:, time_point + 1 :]
    assert torch.equal(model(series)[0][:, : time_point + 1], model(other)[0][:, : time_point + 1])
    assert not torch.equal(model(series)[0], model(other)[0]) or time_point == 36


@pytest.mark.parametrize("cuts", [(8,), (3, 5, 20), (16, 32)])
@torch.no_grad()
def test_a_stream_may_be_cut_anywhere(model, series, cuts):
    state, parts = None, []
    for part in torch.tensor_split(series, cuts, dim=1):
        forecasts, state = model(part, state)
        parts.append(forecasts)
    torch.testing.assert_close(torch.cat(parts, 1), model(series)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_step_streams_one_run(model, series):
    state = model.init_state()
    first, state = model.step(series[0, :20], state)
    second, _ = model.step(series[0, 20:], state)
    torch.testing.assert_close(torch.cat([first, second]), model(series[:1])[0][0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_restart_resets_one_stream_alone(model, series):
    _, state = model(series[:, :16])
    after, _ = model(series[:, 16:], model.restart(state, torch.tensor([True, False])))
    torch.testing.assert_close(after[0], model(series[:1, 16:])[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[1], model(series)[0][1, 16:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forecasts_at_time_points_start_from_empty_memories(model, series):
    _, seen, _ = model.observe(series, model.init_state(2).observation)
    whole, _ = model.forecast_residual(seen)
    torch.testing.assert_close(model.forecast_residual_at(seen, [-1])[:, 0], whole[:, -1], rtol=1e-4, atol=1e-5)


def test_blocks_that_enter_no_forecast_are_not_run(model, series):
    """What they would have said changes nothing, and a step of training runs them."""
    assert not model.blocks_are_idle
    with torch.no_grad():
        _, trained = model(series)
        model.decoder.zero_output()
        found, state = model(series)
        assert model.blocks_are_idle and not torch.equal(found, model(series[:, :1])[0].expand_as(found))
    expected, run = model(series)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    fresh = model.init_state(len(series)).memory.backbone.stack
    for one, is_fresh in ((state, True), (run, False), (trained, False)):
        stacks = (_tensors(stack) for stack in (one.memory.backbone.stack, fresh))
        assert all(torch.equal(*pair) for pair in zip(*stacks, strict=True)) == is_fresh
    if model.backbone.memory is not None:
        torch.nn.init.ones_(model.backbone.gate.bias)
        assert not model.blocks_are_idle, "the gate is trained"


def _tensors(state):
    """All tensors of a state, at any depth."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple | list) else ()
    parts = vars(state).values() if dataclasses.is_dataclass(state) else parts
    return [tensor for part in parts for tensor in _tensors(part)]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("method", ["forecast_residual", "features"])
def test_memories_refuse_other_inputs(model, series, method):
    state = model.init_state(2)
    _, seen, _ = model.observe(series, state.observation)
    with pytest.raises(MismatchError, match="observation: expected an Observation, found Tensor"):
        getattr(model, method)(series, state.memory)
    with pytest.raises(MismatchError, match="state: expected a MemoriesState, found ForecasterState"):
        getattr(model, method)(seen, state)


def test_every_parameter_has_a_gradient(model, series):
    # Memories that were not fitted have no keys.
    shown = torch.randn(4, 60, model.n_features, generator=torch.Generator().manual_seed(2))
    runs = [as_run((shown[0] + alone).numpy(), f"sub-{number}_stimulus") for number, alone in enumerate(shown[1:])]
    model.fit(runs)
    if model.backbone.memory is not None:
        # In noise the memory has a reliability of 0.
        torch.nn.init.constant_(model.backbone.memory.associations.reliability, 0.5)
    held_out_index = model.held_out_index(["sub-1_stimulus", "nobody"])
    model.train()(series, held_out_index=held_out_index)[0].square().mean().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle
    # At the coarse end of a small brain Swin attends over a single patch: there is nothing to weigh.
    dead = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not [name for name in dead if not name.startswith("tokenizer.swin.layers")]


def test_the_memory_state_does_not_grow(model, series):
    def size(state):
        total = 0
        for value in vars(state).values() if dataclasses.is_dataclass(state) else []:
            leaves = value if isinstance(value, tuple) else (value,)
            total += sum(leaf.numel() if isinstance(leaf, torch.Tensor) else size(leaf) for leaf in leaves)
        return total

    with torch.no_grad():
        _, short = model(series[:, :8])
        _, long = model(series[:, :32])
    assert size(short) == size(long) > 0


def test_it_is_named_after_its_backbone():
    names = [make(variant).name for variant in BACKBONES]
    assert names == ["titan-lmm", "titan-mac", "titan-mag", "titan-mal", "gru", "transformer-6"]


def test_the_default_backbone_is_mac():
    settings = {"tokenizer": {"kind": "linear"}, "backbone": {"tokens_per_time_point": 1}}
    read = TypeAdapter(ForecasterConfig).validate_python
    assert isinstance(read(settings).backbone, MACConfig)
    settings["backbone"]["variant"] = "mag"
    assert isinstance(read(settings).backbone, MAGConfig)


def test_a_noncausal_backbone_is_refused():
    backbone = dataclasses.replace(BACKBONES["mac"], causal=False)
    with pytest.raises(ConfigError, match=r"backbone\.causal is False.* a time point would see later time points"):
        ForecasterConfig(tokenizer=LinearTokenizerConfig(), backbone=backbone)


def test_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="2 tokens a time point, the backbone expects 8"):
        ForecasterConfig(tokenizer=LinearTokenizerConfig(n_tokens=2), backbone=MACConfig(tokens_per_time_point=8))
    with pytest.raises(ConfigError, match="must ascend"):
        ForecasterConfig(
            tokenizer=LinearTokenizerConfig(n_tokens=1), backbone=MACConfig(tokens_per_time_point=1), horizons=(3, 1)
        )
    with pytest.raises(ConfigError, match="must divide"):
        SwinTokenizerConfig(embed_dim=10)
    with pytest.raises(ConfigError, match="the linear one has none"):
        ForecasterConfig(
            tokenizer=LinearTokenizerConfig(), backbone=BACKBONES["mac"], decoder=DECODERS["swin-upsampling"]
        )
    config = make("swin").config
    with pytest.raises(MismatchError, match="needs a mask of 5 voxels, found none"):
        config.build(n_features=5)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (torch.zeros(4, 20), r"expected time points \(batch, time, 20\), found \(4, 20\).\nOne run has a batch of one"),
        (
            torch.zeros(1, 4, 19),
            r"expected time points \(batch, time, 20\), found \(1, 4, 19\).\nThe last dimension is",
        ),
        (torch.zeros(1, 4, 20, dtype=torch.int64), r"expected torch.float32 time points .* found torch.int64"),
        (torch.zeros(1, 4, 20, dtype=torch.float64), r"found torch.float64.\nConvert them.*to\(torch.float32\)"),
    ],
    ids=["rank", "features", "integers", "float64"],
)
def test_forward_refuses_other_shapes_and_types(series, message):
    model = make("mac")
    for state in (None, model.init_state()):
        with pytest.raises(MismatchError, match=message):
            model(series, state)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (
            torch.zeros(1, 4, 20),
            r"Forecaster.step: expected time points \(time, 20\), found \(1, 4, 20\).\nPass one run",
        ),
        (torch.zeros(4, 19), r"expected time points \(time, 20\), found \(4, 19\)"),
        (torch.zeros(4, 20, dtype=torch.int64), r"expected floating-point time points .* found torch.int64"),
    ],
    ids=["rank", "features", "integers"],
)
def test_step_refuses_other_shapes_and_types(series, message):
    model = make("mac")
    with pytest.raises(MismatchError, match=message):
        model.step(series, model.init_state())


def test_step_takes_any_floating_point_type():
    model = make("mac").train()
    series = torch.randn(6, 20)
    expected, _ = model.step(series, model.init_state())
    for values in (series.double(), series.numpy(), series.numpy().astype(np.float64)):
        assert torch.equal(model.step(values)[0], expected)
    assert model.training
    assert torch.equal(model(series.numpy()[None])[0], model(series[None])[0])


PARCELS = LinearTokenizerConfig()
SERIES = torch.zeros(1, 4, 20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ForecasterConfig(), "tokenizer: a value is required"),
        (lambda: ForecasterConfig(20), r"Settings are keywords: ForecasterConfig\(tokenizer=...\)"),
        (lambda: ForecasterConfig(tokenizer=PARCELS, horizon=(1, 2)), "'horizon'. Did you mean 'horizons'"),
        (
            lambda: ForecasterConfig(tokenizer="parcels"),
            "expected SwinTokenizerConfig or LinearTokenizerConfig, .*found 'parcels'",
        ),
        (lambda: ForecasterConfig(tokenizer=PARCELS, horizons=3), "horizons: .*found 3"),
        (lambda: ForecasterConfig(tokenizer=PARCELS, horizons=()), "at least one lead time is needed"),
        (lambda: ForecasterConfig(tokenizer=PARCELS, horizons=(0, 1)), r"horizons\.0: .*found 0"),
        (lambda: ForecasterConfig(tokenizer=PARCELS, horizons=(1.5,)), r"horizons\.0: .*found 1\.5"),
        (
            lambda: ForecasterConfig(tokenizer=PARCELS, backbone={"variant": "mac", "dims": 3}),
            r"backbone\.dims'. Did you mean 'dim'",
        ),
        (lambda: LinearTokenizerConfig(tokens=3), "'tokens'. Did you mean 'n_tokens'"),
        (lambda: SwinTokenizerConfig(patch_size=0), "patch_size: .*found 0"),
        (lambda: LowRankConfig(rank=0), "rank: .*found 0"),
        (lambda: UpsamplingConfig(channel=3), "Did you mean 'channels'"),
        (lambda: RecallConfig(width=0), "width: .*found 0"),
        *[
            (
                lambda size=size: ForecasterConfig(tokenizer=PARCELS).build(n_features=size),
                "n_features: expected a whole",
            )
            for size in (0, -3, "20", 20.0)
        ],
        (lambda: make("mac").init_state(-1), "batch: expected a whole number"),
        (lambda: make("mac").init_state("a"), "batch: expected a whole number"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model([[[0.0] * 20]]), "tensor or numpy array, found list"),
        (lambda model: model.step([[0.0] * 20]), "tensor or numpy array, found list"),
        (lambda model: model(np.zeros((1, 4, 20), dtype=int)), "found an array of int64"),
        (lambda model: model(SERIES[:0]), "at least one time point"),
        (lambda model: model.step(SERIES[0, :0]), "at least one time point"),
        (lambda model: model(SERIES.half()), r"found torch.float16.\nConvert them"),
        (lambda model: model(SERIES.bfloat16()), r"found torch.bfloat16.\nConvert them"),
        (lambda model: model.step(SERIES[0].index_fill(0, torch.tensor(2), torch.nan)), "at time point 2 of these 4"),
        (lambda model: model(SERIES, 3), "expected a ForecasterState, found int"),
        (lambda model: model(SERIES, (1, 2)), "expected a ForecasterState, found tuple"),
        (lambda model: model.step(SERIES[0], model.init_memory(1)), "found MemoriesState"),
        (lambda model: model(SERIES, model.init_state(2)), "expected a batch of 1, as the series have, found 2"),
        (lambda model: model.restart(model.init_state(2), torch.tensor([True])), "expected a batch of 1"),
        (
            lambda model: model(
                SERIES, dataclasses.replace(model.config, horizons=(1, 2)).build(n_features=20).init_state()
            ),
            "state is of a model with other horizons",
        ),
        (lambda model: model.fit(None), "sequence of runs, one for each recording; found NoneType"),
        (lambda model: model.fit({"a": SERIES[0]}), "found dict"),
        (lambda model: model.fit([pd.DataFrame(SERIES[0].numpy())]), r"Run 0: .* found DataFrame.\nConvert each run"),
        (lambda model: model.fit([[[0.0] * 20]]), "Run 0: .* found list"),
        (lambda model: model.fit([SERIES[0, :0].numpy()] * 2), "array-0: expected at least one time point"),
        (lambda model: model.held_out_index("a"), r"sequence of keys, found 'a'.\nPass \['a'\]"),
        (
            lambda model: ForecasterConfig(tokenizer=SwinTokenizerConfig()).build(n_features=20, mask=np.ones(20) > 0),
            r"bool tensor \(x, y, z\), found ndarray",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(MismatchError, match=message):
        call(make("mac"))


def test_short_runs_are_refused_with_the_needed_length():
    with pytest.raises(TrainingError, match=r"of at least .* time points each"):
        make("mac").fit([torch.zeros(2, 20)] * 3)


def test_tokenizers_and_decoders_refuse_other_shapes():
    model, volumes = make("mac"), make("swin-upsampling")
    n_voxels = volumes.n_features
    with pytest.raises(MismatchError, match=r"LinearTokenizer.forward: expected time points \(batch, time, 20\)"):
        model.tokenizer(torch.zeros(4, 20))
    with pytest.raises(
        MismatchError, match=rf"SwinTokenizer.forward: expected time points \(batch, time, {n_voxels}\)"
    ):
        volumes.tokenizer(torch.zeros(1, 2, n_voxels + 1))
    with pytest.raises(MismatchError, match=r"LowRankDecoder.forward: expected tokens \(batch, time, 1, 16\)"):
        model.decoder(torch.zeros(1, 2, 16))
    with pytest.raises(MismatchError, match=r"UpsamplingDecoder\.forward: expected floating-point tokens"):
        volumes.decoder(torch.zeros(1, 2, 2, 16, dtype=torch.int64))


def test_defaults_fit_each_other():
    parcels = ForecasterConfig(tokenizer=LinearTokenizerConfig())
    assert parcels.backbone.tokens_per_time_point == 1
    assert ForecasterConfig(tokenizer=SwinTokenizerConfig()).backbone.tokens_per_time_point == 8
    read = TypeAdapter(ForecasterConfig).validate_python({"tokenizer": {"kind": "linear", "n_tokens": 3}})
    assert read.backbone.tokens_per_time_point == 3
    forecasts, _ = Forecaster(parcels, n_features=5)(torch.zeros(1, 3, 5))
    assert forecasts.shape == (1, 3, 5, 5)


def test_an_invalid_tokenizer_is_reported_as_such():
    with pytest.raises(ValidationError, match="n_tokens"):
        TypeAdapter(ForecasterConfig).validate_python({"tokenizer": {"kind": "linear", "n_tokens": 0}})


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.double], ids=["numpy", "float64"])
def test_fit_takes_plain_arrays(convert):
    series = [torch.randn(80, 20, generator=torch.Generator().manual_seed(subject)) for subject in range(3)]
    model, expected = make("mac"), make("mac")
    model.fit([convert(run) for run in series])
    expected.fit([InMemoryRun(run, key=f"array-{n}", subject=str(n), stimulus=str(n)) for n, run in enumerate(series)])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    with pytest.raises(MismatchError, match="expected runs of 20 features, array-0 has 19"):
        model.fit([series[0][:, :19]])


@pytest.mark.parametrize("kind", ["mac", "swin-upsampling"])
def test_a_loaded_model_gives_the_same_bits(kind, tmp_path):
    model = make(kind)
    model.save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    series = torch.randn(1, 9, model.n_features)
    with torch.no_grad():
        assert torch.equal(again(series)[0], model(series)[0])
