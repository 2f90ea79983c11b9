"""All settings of a study in one tree, and the presets to start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from titan_neuro.data.prepare import PrepareConfig
from titan_neuro.data.splits import SplitConfig
from titan_neuro.errors import ConfigError
from titan_neuro.evaluation import EvaluationConfig
from titan_neuro.forecaster import ForecasterConfig, LookaheadConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig, SwinTokenizerConfig
from titan_neuro.probing import ProbeConfig
from titan_neuro.settings import settings
from titan_neuro.titans.models import MACConfig
from titan_neuro.training import TrainingConfig, require_pretraining


@settings
class StudyConfig:
    """What `config.resolved.yaml` holds: one part for each stage.

    Attributes
    ----------
    prepare, split, model, training, evaluation, probe
        The settings of each stage; see the classes.
    seeds : tuple of int
        Of the initial weights and the order of the runs: every fold is trained once with each. The first is that of the
        bootstrap, too. Three by default, since what gradients make differs; presets without epochs have one, since the
        closed form draws nothing.
    comparison_models : bool
        Whether a GRU and a Transformer that sees 20 time points are trained beside the model (see
        `match_comparison_models`). They learn by gradients only, and need ``training.max_epochs`` of 1 or more.
    """

    prepare: PrepareConfig = PrepareConfig()
    split: SplitConfig = SplitConfig()
    model: ForecasterConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    comparison_models: bool = True

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: expected one or more, each once; found {list(self.seeds)}.")
        if self.comparison_models and not self.training.max_epochs:
            raise ConfigError(
                "comparison_models: a GRU or Transformer learns by gradients only, but training.max_epochs is 0.",
                "Use --set training.max_epochs=8 (or another number), or --set comparison_models=false.",
            )
        require_pretraining(self.model, self.training.pretraining)
        window, restart = self.training.window_time_points, self.model.restart_time_points
        if window % restart:
            raise ConfigError(
                f"training.window_time_points: {window} is no multiple of {restart}, after which a stream may "
                f"be reset in this {self.model.backbone.variant} model.",
                "Streams end and begin between windows, and can do so between segments (mac: "
                "model.backbone.segment_time_points) and chunks (model.backbone.memory.chunk_time_points and "
                "model.lookahead.chunk_time_points) only.",
            )


def debug() -> StudyConfig:
    """Smallest model that has every part: for tests and for trying things out, in seconds."""
    return StudyConfig(
        model=ForecasterConfig(
            tokenizer=SwinTokenizerConfig(embed_dim=4, num_heads=(1, 2, 4, 8), token_grid=(1, 1, 1)),
            backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1),
            horizons=(1, 2),
            recall=RecallConfig(width=16, n_components=8, autoregressive_lags=2),
            lookahead=LookaheadConfig(n_lags=4, n_components=4, key_width=32),
            decoder=LowRankConfig(rank=4),
        ),
        training=TrainingConfig(max_epochs=2, window_time_points=32),
        seeds=(0,),
    )


def cpu_small() -> StudyConfig:
    """Volumes on a coarse grid (about 24 voxels a side), fitted in closed form on a laptop in minutes."""
    return StudyConfig(
        model=ForecasterConfig(tokenizer=LinearTokenizerConfig(), backbone=MACConfig(dim=48)),
        training=TrainingConfig(max_epochs=0),
        seeds=(0,),
        comparison_models=False,
    )


def gpu_base() -> StudyConfig:
    """Volumes of about 96 voxels a side, on one GPU. At this size gradient training was not measured: it stays on."""
    return StudyConfig(
        model=ForecasterConfig(
            tokenizer=LinearTokenizerConfig(),
            backbone=MACConfig(dim=192, n_layers=4, n_heads=4),
            horizons=(1, 2, 3, 6, 10, 20),
            decoder=LowRankConfig(rank=64),
        ),
        training=TrainingConfig(max_epochs=30, patience=6, n_streams=2, learning_rate=5e-4),
    )


def parcels() -> StudyConfig:
    """Time series of a few hundred parcels, fitted in closed form on a laptop in minutes."""
    return StudyConfig(
        model=ForecasterConfig(
            tokenizer=LinearTokenizerConfig(), backbone=MACConfig(dim=64), horizons=(1, 2, 3, 6, 10, 20)
        ),
        # Where epochs are asked for, `max_epochs` alone is missing.
        training=TrainingConfig(max_epochs=0, patience=2, learning_rate=3e-4, weight_decay=0.1),
        seeds=(0,),
        comparison_models=False,
    )


PRESETS: dict[str, Callable[[], StudyConfig]] = {
    "debug": debug,
    "cpu-small": cpu_small,
    "gpu-base": gpu_base,
    "parcels": parcels,
}
