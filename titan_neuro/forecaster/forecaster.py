"""The forecaster: ``forecast = linear skip + recall + backbone``, at constant memory however long the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.forecaster.components import Components
from titan_neuro.forecaster.config import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig, LowRankDecoder, UpsamplingDecoder
from titan_neuro.forecaster.fit import ClosedFormFit, FitStart, fit_closed_form
from titan_neuro.forecaster.fitted import require_shapes
from titan_neuro.forecaster.linear_skip import LinearSkip
from titan_neuro.forecaster.recall.recall import Recall, Recalled
from titan_neuro.forecaster.shallow_copy import with_parts
from titan_neuro.forecaster.shapes import as_tensor, require_series, require_size
from titan_neuro.forecaster.state import ForecasterState, LearnedOutput, MemoriesState, Observation, ObservationState
from titan_neuro.forecaster.titan import ForecasterBackbone
from titan_neuro.forecaster.tokenizers import LinearTokenizer, SwinTokenizer, SwinTokenizerConfig
from titan_neuro.linear.autoregression import fit_autoregression
from titan_neuro.runs import as_runs
from titan_neuro.titans.pretrained import Pretrained
from titan_neuro.typing import RunData


class Forecaster(Pretrained):
    """Forecast each feature by linear autoregression, plus what is recalled of others, plus what the backbone learns.

    ``forecast[t, h] = linear_skip_h(y up to t) + recall_h(y and the skip's errors up to t) + backbone_h(tokens, errors
    of both up to t)``. The backbone is Titans: a memory that learns, while the run is read, what the other two miss
    `h` time points later, and blocks that gate it and add what a decoder makes of them. Linear skip, recall and the
    keys of the memory are fitted in closed form (:meth:`fit`). The decoder starts at 0 and the gates at 1, so training
    starts from that fit. A new model forecasts 0. It keeps the protocol of
    :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    config : ForecasterConfig
    n_features : int
        Voxels inside the mask, or parcels.
    mask : torch.Tensor, optional
        bool ``(x, y, z)`` with `n_features` voxels set; for the Swin tokenizer. The linear one, which reads the voxels
        of a mask as well, does not use it.

    Attributes
    ----------
    name : str
        Row of the table: name of the backbone.
    horizons : tuple of int
        Lead times in time points, ascending.
    linear_skip : LinearSkip
    fitted_runs : dict of str to (int, int)
        Subject and fold of each run of the fit, by its key; empty in a model that was read from a file.
    components : Components or None
        None without a recall.
    recall : Recall or None
    tokenizer : SwinTokenizer or LinearTokenizer
    backbone : ForecasterBackbone
    decoder : LowRankDecoder or UpsamplingDecoder

    Raises
    ------
    MismatchError
        A Swin tokenizer without a mask, or a mask of another size.
    ConfigError
        `n_features` is not a whole number of at least 1.

    Examples
    --------
    >>> model = Forecaster(ForecasterConfig(tokenizer=LinearTokenizerConfig()), n_features=200)
    >>> model.fit([run_1, run_2])  # arrays (time, 200), z-scored
    >>> forecasts, state = model.step(new_run)  # (time, horizons, 200)
    """

    config_class: ClassVar[type[Any]] = ForecasterConfig

    def __init__(self, config: ForecasterConfig, *, n_features: int, mask: Bool[Tensor, "x y z"] | None = None) -> None:
        super().__init__()
        require_size("Forecaster: n_features", n_features)
        n_features = int(n_features)
        self.config, self.horizons, self.n_features = config, tuple(config.horizons), n_features
        self.name = config.backbone.name
        self.tokenizer = self._build_tokenizer(mask)
        self.decoder = self._build_decoder(mask)
        self.recall: Recall | None = None
        self.components: Components | None = None
        if config.recall is not None:
            self.recall = config.recall.build(horizons=self.horizons, n_features=n_features)
            self.components = Components(self.recall.width, horizons=self.horizons, n_features=n_features)
        width = 0 if self.components is None else self.components.width
        self.backbone = ForecasterBackbone(config.backbone, config.memory, horizons=self.horizons, width=width)
        self.fitted_runs: dict[str, tuple[int, int]] = {}
        self.linear_skip = LinearSkip(horizons=self.horizons, n_features=n_features)

    def _build_tokenizer(self, mask: Tensor | None) -> SwinTokenizer | LinearTokenizer:
        config, dim = self.config.tokenizer, self.config.backbone.dim
        if not isinstance(config, SwinTokenizerConfig):
            return LinearTokenizer(config, self.n_features, dim)
        if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 3):
            raise MismatchError(
                f"Forecaster: expected the mask as a bool tensor (x, y, z), found {_describe(mask)}.",
                "Convert it, for example by torch.as_tensor(mask, dtype=torch.bool).",
            )
        if mask is None or int(mask.sum()) != self.n_features:
            found = "none" if mask is None else f"one of {int(mask.sum())} voxels"
            raise MismatchError(
                f"The Swin tokenizer needs a mask of {self.n_features} voxels, found {found}.",
                "Pass the mask of the data, bool (x, y, z), and its number of voxels as n_features.",
            )
        return SwinTokenizer(config, mask, dim)

    def _build_decoder(self, mask: Tensor | None) -> LowRankDecoder | UpsamplingDecoder:
        sizes = {"dim": self.config.backbone.dim, "n_horizons": len(self.horizons)}
        decoder, n_tokens = self.config.decoder, self.config.tokenizer.n_tokens
        if isinstance(decoder, LowRankConfig):
            return LowRankDecoder(decoder, n_tokens=n_tokens, n_features=self.n_features, **sizes)
        # The configuration pairs this decoder with the Swin tokenizer, which has checked the mask.
        tokenizer = cast("SwinTokenizerConfig", self.config.tokenizer)
        grid, patch_size = tokenizer.token_grid, tokenizer.patch_size
        return UpsamplingDecoder(decoder, mask=cast("Tensor", mask), token_grid=grid, patch_size=patch_size, **sizes)

    def constructor_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the constructor beside `config`, for `save_pretrained`; the weights hold the mask."""
        return {"n_features": self.n_features}

    @classmethod
    def from_config(
        cls, config: ForecasterConfig, arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> Forecaster:
        """Build the model that saved `weights` are loaded into; see :meth:`Pretrained.from_config`."""
        return cls(config, **arguments, mask=weights.get("tokenizer.mask"))

    def with_parts(self, **parts: nn.Module | None) -> Forecaster:
        """Return this model with other parts: an ablation. All that is not replaced is shared, not copied.

        Parameters
        ----------
        **parts : torch.nn.Module or None
            `tokenizer`, `backbone`, `decoder` or `recall`, with the shapes and the state of what they replace. Only the
            recall can be None: the backbone then corrects the linear skip alone.

        Raises
        ------
        ConfigError
            The model has no such part.
        """
        known = ("tokenizer", "backbone", "decoder", "recall")
        if unknown := sorted(set(parts) - set(known)):
            raise ConfigError(f"with_parts: expected some of {', '.join(known)}, found {', '.join(unknown)}.")
        return with_parts(self, **parts)

    def fit(self, runs: Sequence[RunData | Tensor | np.ndarray], *, start: Forecaster | None = None) -> None:
        """Fit linear skip, recall and the keys of the memory to training runs, in closed form.

        Parameters
        ----------
        runs : sequence of RunData, torch.Tensor or numpy.ndarray
            Arrays are ``(time, features)``, z-scored per feature. Each counts as a subject of its own, who saw a
            stimulus of its own (:func:`titan_neuro.runs.as_runs`).
        start : Forecaster, optional
            A model fitted to other recordings, from which the fit starts (:func:`fit_closed_form`).

        Raises
        ------
        MismatchError
            Runs of another number of features, or arrays that are not floating-point matrices with a row or more; or
            `start` has other horizons, sizes or number of features.
        TrainingError
            No run, or too few scored time points.
        """
        runs = as_runs(runs)
        for run in runs:
            if run.n_features != self.n_features:
                raise MismatchError(
                    f"Forecaster.fit: expected runs of {self.n_features} features, {run.key} has {run.n_features}.",
                    "Build the model with the number of features of the data.",
                )
        given = None if start is None else FitStart.of(start, self.config, self.n_features)
        linear = fit_autoregression(runs, self.horizons)
        self.linear_skip.load(linear)
        if self.recall is not None:
            self.load_closed_form(fit_closed_form(self.recall.config, self.config.memory, runs, linear, start=given))

    def load_closed_form(self, fit: ClosedFormFit) -> None:
        """Load what was fitted beside the linear skip.

        Raises
        ------
        MismatchError
            The fit is of other sizes, or the model has no recall.
        """
        if self.recall is None or self.components is None:
            raise MismatchError("Forecaster.load_closed_form: the model has no recall that could be loaded.")
        require_shapes(
            "Forecaster.load_closed_form",
            "Fit with the same RecallConfig and number of features.",
            ("basis", fit.basis, self.components.basis),
        )
        self.recall.load(fit.recall)
        if self.backbone.memory is not None and fit.memory is not None:
            self.backbone.memory.load(fit.memory)
        self.components.basis.copy_(fit.basis)
        self.fitted_runs = dict(fit.runs)

    def held_out_index(self, keys: Sequence[str]) -> Int[Tensor, "B 2"] | None:
        """Subject and fold of the runs with these keys, for `forward`.

        Training runs are then read with what was fitted without them. ``(batch, 2)``, -1 for runs that are not in the
        fit; None without a recall.

        Raises
        ------
        MismatchError
            One key instead of a sequence of keys.
        """
        if isinstance(keys, str):
            raise MismatchError(f"held_out_index: expected a sequence of keys, found {keys!r}.", f"Pass [{keys!r}].")
        if self.recall is None:
            return None
        places = [self.fitted_runs.get(key, (-1, -1)) for key in keys]
        return torch.tensor(places, device=self.linear_skip.coefficients.device)

    def init_state(self, batch: int = 1) -> ForecasterState:
        """State before the first time point of `batch` streams, at least 1."""
        require_size("Forecaster.init_state: batch", batch)
        pending = () if self.components is None else (self.components.init_state(batch),)
        observation = ObservationState(self.linear_skip.init_state(batch), pending)
        return ForecasterState(observation, self.init_memory(batch))

    def init_memory(self, batch: int) -> MemoriesState:
        """State of backbone and recall before the first time point of `batch` streams."""
        recall = () if self.recall is None else (self.recall.init_state(batch),)
        return MemoriesState(self.backbone.init_state(batch), recall)

    def restart(self, state: ForecasterState, is_start: Bool[Tensor, " B"]) -> ForecasterState:
        """Reset the streams where `is_start`, bool ``(batch,)``, to the state before their first time point."""
        self._require_state(state, len(is_start))
        return state.reset(is_start, self.init_state(len(is_start)))

    def _require_state(self, state: ForecasterState, batch: int) -> None:
        """Raise unless `state` is one of this model, for `batch` streams; the backbone checks its part itself."""
        if not isinstance(state, ForecasterState):
            raise MismatchError(
                f"state: expected a ForecasterState, found {type(state).__name__}.",
                "Pass what the call before returned as its second value, or None at the start of a run.",
            )
        if state.batch_size != batch:
            raise MismatchError(f"state: expected a batch of {batch}, as the series have, found {state.batch_size}.")
        history, n_horizons = self.linear_skip.coefficients.shape[1] - 1, len(self.horizons)
        expected: list[tuple[int, ...]] = [(batch, history, self.n_features)]
        found: list[tuple[int, ...]] = [state.observation.linear_skip.history.shape]
        if self.components is not None:
            expected += [(batch, max(self.horizons), n_horizons, self.components.width)]
        if self.recall is not None:
            expected += [(batch, self.recall.stimulus.n_positions)]
        found += [pending.forecasts.shape for pending in state.observation.pending]
        found += [recall.evidence.shape for recall in state.memory.recall]
        if [tuple(shape) for shape in found] != expected:
            raise MismatchError(
                f"state: expected tensors of {expected}, found {[tuple(shape) for shape in found]}.",
                "The state is of a model with other horizons, features or recall, or from before the fit. Pass it back "
                "to the model that returned it.",
            )

    def forward(
        self,
        series: Tensor | np.ndarray,
        state: ForecasterState | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast from every time point of a batch of runs.

        Parameters
        ----------
        series : torch.Tensor or numpy.ndarray
            ``(batch, time, features)``, z-scored; a tensor has the type of the weights.
        state : ForecasterState, optional
            From the call before; None at the start of the runs.
        memory_frozen : bool
            Whether the memories that learn at test time are read without being written.
        held_out_index : torch.Tensor, optional
            From :meth:`held_out_index`, for training runs.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, features)``: ``[:, t, k]`` is the forecast of time point ``t + horizons[k]``
            from time points ``<= t``.
        state : ForecasterState

        Raises
        ------
        MismatchError
            Series of another rank, number of features or dtype, or without a time point; a state of another model or
            batch size.
        """
        linear, residual, state = self.forecast_parts(
            series, state, memory_frozen=memory_frozen, held_out_index=held_out_index
        )
        return linear + residual, state

    def forecast_parts(
        self,
        series: Tensor | np.ndarray,
        state: ForecasterState | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
        features: Float[Tensor, "B T P F"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast as :meth:`forward` does; return linear skip, and recall and decoder together, separately.

        `features` are the output of :meth:`SwinTokenizer.features` for `series`, where it is cached.
        """
        coefficients = self.linear_skip.coefficients
        series = as_tensor(series, coefficients, caller="Forecaster.forward")
        require_series(series, self.n_features, caller="Forecaster.forward", dtype=coefficients.dtype)
        state = self.init_state(len(series)) if state is None else state
        self._require_state(state, len(series))
        linear, observation, observation_state = self.observe(series, state.observation, features)
        residual, memory = self.forecast_residual(
            observation, state.memory, memory_frozen=memory_frozen, held_out_index=held_out_index
        )
        return linear, residual, ForecasterState(observation_state, memory)

    def observe(
        self, series: Tensor, state: ObservationState, features: Float[Tensor, "B T P F"] | None = None
    ) -> tuple[Float[Tensor, "B T K V"], Observation, ObservationState]:
        """Forecast linearly, and prepare the input of memories and decoder.

        An observation does not depend on what the memories hold: a probe computes it once, and reads it with different
        memories.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, features)``, z-scored.
        state : ObservationState
            From the call before, or `observation` of :meth:`init_state`.
        features : torch.Tensor, optional
            Output of :meth:`SwinTokenizer.features` for `series`.

        Returns
        -------
        linear : torch.Tensor
            Forecasts of the linear skip, ``(batch, time, horizons, features)``.
        observation : Observation
        state : ObservationState

        Raises
        ------
        MismatchError
            Series of another rank, number of features or dtype.
        """
        dtype = self.linear_skip.coefficients.dtype
        require_series(series, self.n_features, caller="Forecaster.forward", dtype=dtype)
        with _full_precision(series):
            linear, linear_state = self.linear_skip(series, state.linear_skip)
            if self.components is None:
                projected, errors, pending = series[..., :0], linear[..., :0], state.pending
            else:
                projected, errors, waiting = self.components(series, linear, state.pending[0])
                pending = (waiting,)
        if features is not None and isinstance(self.tokenizer, SwinTokenizer):
            tokens = self.tokenizer.project(features)
        else:
            tokens = self.tokenizer(series)
        # The residual stream stays in full precision where blocks compute in half precision.
        tokens = tokens.to(series.dtype)
        return linear, Observation(tokens, projected, errors), ObservationState(linear_state, pending)

    def forecast_residual(
        self,
        observation: Observation,
        state: MemoriesState | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], MemoriesState]:
        """Forecast the errors of the linear skip: recall and decoder.

        Parameters
        ----------
        observation : Observation
            From :meth:`observe`.
        state : MemoriesState, optional
            From the call before; None at the start of the runs.
        memory_frozen, held_out_index
            As for :meth:`forward`.

        Returns
        -------
        residual : torch.Tensor
            ``(batch, time, horizons, features)``.
        state : MemoriesState

        Raises
        ------
        MismatchError
            An observation or a state of another type, or one that does not fit the model.
        """
        state = self._memories_before(observation, state)
        output, state = self._run_memories(
            observation, state, memory_frozen=memory_frozen, held_out_index=held_out_index
        )
        return self._decode(output), state

    def forecast_residual_at(self, observation: Observation, time_points: Sequence[int]) -> Float[Tensor, "B N K V"]:
        """Run the memories from empty over the whole observation, but decode only at `time_points`.

        `time_points` are indices into the observation, negative ones from its end.
        """
        empty = self._memories_before(observation, None)
        output, _ = self._run_memories(observation, empty, memory_frozen=False, held_out_index=None)
        return self._decode(output.at(time_points))

    def features(
        self, observation: Observation, state: MemoriesState, *, held_out_index: Int[Tensor, "B 2"] | None = None
    ) -> tuple[Float[Tensor, "B T F"], MemoriesState]:
        """Return the content of the memories at each time point, for a probe to decode.

        Parameters
        ----------
        observation : Observation
            From :meth:`observe`.
        state : MemoriesState
            From the call before, or :meth:`init_memory`.
        held_out_index : torch.Tensor, optional
            As for :meth:`forward`.

        Returns
        -------
        features : torch.Tensor
            ``(batch, time, backbone dim + horizons * width)``: output of the backbone's blocks, averaged over the
            tokens of a time point, and what recall and memory forecast together, in components, horizon by horizon.
            Without the first part where :attr:`blocks_are_idle`.
        state : MemoriesState

        Raises
        ------
        MismatchError
            An observation or a state of another type, or one that does not fit the model.
        """
        state = self._memories_before(observation, state)
        output, state = self._run_memories(observation, state, memory_frozen=False, held_out_index=held_out_index)
        of_blocks = [] if output.tokens is None else [output.tokens.mean(dim=2).to(output.components)]
        return torch.cat([*of_blocks, output.components.flatten(2)], dim=-1), state

    @property
    def blocks_are_idle(self) -> bool:
        """Whether the backbone's blocks enter no forecast, as before the first gradient step.

        Decoder and gate give the same whatever the blocks say. Without gradients they are then not run.
        """
        return self.components is not None and self.decoder.is_zero() and self.backbone.gate_is_open()

    def _memories_before(self, observation: Observation, state: MemoriesState | None) -> MemoriesState:
        """Return `state`, or empty memories; raise where the two are something else, such as a whole model's state."""
        if not isinstance(observation, Observation):
            raise MismatchError(
                f"observation: expected an Observation, found {type(observation).__name__}.",
                "Pass the second of what `Forecaster.observe` returned.",
            )
        if state is not None and not isinstance(state, MemoriesState):
            raise MismatchError(
                f"state: expected a MemoriesState, found {type(state).__name__}.",
                "Pass `init_memory(batch)`, what the call before returned, or the `memory` of a ForecasterState.",
            )
        return self.init_memory(len(observation.tokens)) if state is None else state

    def _run_memories(
        self, observation: Observation, state: MemoriesState, *, memory_frozen: bool, held_out_index: Tensor | None
    ) -> tuple[LearnedOutput, MemoriesState]:
        if self.recall is None:
            recalled, recall = Recalled(*(torch.zeros_like(observation.errors),) * 2), state.recall
        else:
            innovations = observation.errors[:, :, 0]
            with _full_precision(innovations):
                recalled, after = self.recall(
                    observation.series, innovations, state.recall[0], held_out_index=held_out_index
                )
            recall = (after,)
        # With gradients they run: the first step is taken through them. Nor are weights looked through then.
        skip_blocks = not torch.is_grad_enabled() and self.blocks_are_idle
        tokens, corrections, backbone = self.backbone(
            *observation, recalled, state.backbone, memory_frozen=memory_frozen, skip_blocks=skip_blocks
        )
        return LearnedOutput(tokens, recalled.total + corrections), MemoriesState(backbone, recall)

    def _decode(self, output: LearnedOutput) -> Tensor:
        """Output of the decoder, plus what is forecast in components, in all features."""
        if output.tokens is None and self.components is not None:
            with _full_precision(output.components):
                return output.components @ self.components.basis
        decoded: Tensor = self.decoder(output.tokens)
        if self.components is None:
            return decoded
        # One product added in place: all features of each time point and horizon are the largest tensor.
        with _full_precision(decoded):
            flat = decoded.to(output.components.dtype).flatten(0, 2)
            total = torch.addmm(flat, output.components.flatten(0, 2), self.components.basis)
        return total.view_as(decoded)

    @torch.inference_mode()
    def step(
        self, series: Tensor | np.ndarray, state: ForecasterState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "T K V"], ForecasterState]:
        """Read the next time points of one run, and forecast from each of them.

        The model computes in evaluation mode, and is afterwards in the mode in which it was. Forecasts and state are
        inference tensors, which can't be used where autograd is to record: clone them first, or call :meth:`forward`.

        Parameters
        ----------
        series : torch.Tensor or numpy.ndarray
            ``(time, features)``, z-scored, of any floating-point type and on any device.
        state : ForecasterState, optional
            From the call before; None at the start of the run.
        memory_frozen : bool
            As for :meth:`forward`.

        Returns
        -------
        forecasts : torch.Tensor
            ``(time, horizons, features)``, on the device of `series`.
        state : ForecasterState

        Raises
        ------
        MismatchError
            Series of another rank or number of features, not floating-point, without a time point, or with a value that
            is not finite; a state of another model or batch size.
        """
        series = as_tensor(series, self.linear_skip.coefficients, caller="Forecaster.step")
        require_series(series, self.n_features, caller="Forecaster.step", is_batch=False)
        _require_finite(series)
        series_of_model, was_training = series.to(self.linear_skip.coefficients), self.training
        try:
            forecasts, state = self.eval()(series_of_model[None], state, memory_frozen=memory_frozen)
        finally:
            if was_training:
                self.train()
        return forecasts[0].to(series.device), state


def _require_finite(series: Tensor) -> None:
    """Raise where a value is not finite: the state would hold it for ever."""
    is_finite = torch.isfinite(series)
    if not is_finite.all():
        time_point = int((~is_finite).any(dim=1).nonzero()[0])
        raise MismatchError(
            f"Forecaster.step: expected finite values, found NaN or infinity at time point {time_point} of these "
            f"{len(series)}.",
            "Replace them, for example by 0, the mean of z-scored features.",
        )


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Disable autocast: evidence adds up over a whole run, and errors are small differences."""
    return torch.autocast(tensor.device.type, enabled=False)
