"""Settings of the training; no Lightning is imported here, so that the other stages begin at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from titan_neuro.errors import ConfigError
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizerConfig
from titan_neuro.settings import settings

Precision = Literal["float32", "bfloat16", "float16"]
Strategy = Literal["ddp", "fsdp"]


@settings
class PretrainingConfig:
    """How the Swin is pre-trained on masked volumes. Volumes are not flipped, rotated or scaled.

    Attributes
    ----------
    mask_fraction : float
        Fraction of the cubes inside the brain that is hidden.
    mask_patches : int
        Side of a cube, in patches.
    channels : int
        Channels of the light decoder.
    n_epochs, steps_per_epoch : int
        Epochs, each followed by a checkpoint, and steps of an epoch.
    batch_volumes : int
        Volumes of a step: blocks of four consecutive volumes from random places of the training runs.
    learning_rate, weight_decay : float
        Of AdamW. The rate falls as half a cosine to 0.
    gradient_clip : float
        Largest norm of a step's gradient.
    """

    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.6
    mask_patches: Annotated[int, Field(ge=1)] = 1
    channels: Annotated[int, Field(ge=1)] = 16
    n_epochs: Annotated[int, Field(ge=1)] = 10
    steps_per_epoch: Annotated[int, Field(ge=1)] = 50
    batch_volumes: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0


@settings
class TrainingConfig:
    """How a model is trained.

    Attributes
    ----------
    max_epochs : int
        Epochs, each followed by a validation. 0: no gradient step, the closed form alone is the model.
    steps_per_epoch : int
        Steps of an epoch, at least: the training runs are read once, or again until there are so many steps.
    patience : int
        Epochs without a smaller validation error after which the training stops.
    window_time_points : int
        Length of a window in time points. The memory state is carried over from window to window, its gradient is not.
    n_streams : int
        Runs that are read side by side, over all processes.
    learning_rate, weight_decay : float
        Of AdamW. The learning rate rises linearly, then falls as half a cosine to 0, step by step.
    warmup_fraction : float
        Fraction of all steps in which the learning rate rises.
    gradient_clip : float
        Largest norm of a step's gradient.
    precision : {"float32", "bfloat16", "float16"}
        In which tokenizer, backbone and decoder compute. Weights, memory states, and all that is fitted in closed form
        stay float32.
    gradient_checkpointing : bool
        Compute the activations inside the backbone's blocks again for the gradient, instead of keeping them: more time,
        less memory.
    strategy : {"ddp", "fsdp"}
        What several processes share: the streams only (``ddp``), or also weights and optimizer state (``fsdp``).
    checkpoint_every_s : float
        Seconds between two checkpoints within an epoch, at least.
    pretraining : PretrainingConfig, optional
        Pre-training of the Swin on masked volumes of the training runs; by default none.
    start : Path, optional
        Folder of a trained model, of other people or other recordings, that the fits in closed form and the training
        start from; by default none. See ``docs/training.md``.
    """

    max_epochs: Annotated[int, Field(ge=0)] = 12
    steps_per_epoch: Annotated[int, Field(ge=1)] = 32
    patience: Annotated[int, Field(ge=1)] = 4
    window_time_points: Annotated[int, Field(ge=1)] = 64
    n_streams: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    strategy: Strategy = "ddp"
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 120.0
    pretraining: PretrainingConfig | None = None
    start: Path | None = None

    def __post_init__(self) -> None:
        if self.strategy == "fsdp" and self.precision == "float16":
            raise ConfigError(
                "training.precision: float16 can't be combined with training.strategy fsdp.",
                "Use --set training.precision=bfloat16.",
            )
        if self.pretraining is not None and not self.max_epochs:
            raise ConfigError(
                "training.pretraining: nothing uses a pre-trained Swin where training.max_epochs is 0: tokens enter "
                "forecasts by gradient training.",
                "Use --set training.max_epochs=8, or --set training.pretraining=null.",
            )


def require_pretraining(model: ForecasterConfig, pretraining: PretrainingConfig | None) -> None:
    """Refuse a frozen Swin without pre-training, and pre-training of a model that has no Swin.

    Raises
    ------
    ConfigError
        Model and `pretraining` don't fit each other; says which setting to change.
    """
    tokenizer = model.tokenizer
    if pretraining is not None and not isinstance(tokenizer, SwinTokenizerConfig):
        raise ConfigError(
            f"training.pretraining: only the Swin is pre-trained, and model.tokenizer.kind is {tokenizer.kind}.",
            "Use --set training.pretraining=null.",
        )
    if pretraining is None and isinstance(tokenizer, SwinTokenizerConfig) and tokenizer.frozen:
        raise ConfigError(
            "model.tokenizer.frozen is true, but the Swin is not pre-trained: it would keep its random weights.",
            "Use --set training.pretraining={} for its defaults, or --set model.tokenizer.frozen=false.",
        )
