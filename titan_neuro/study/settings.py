"""Which settings are in force: a preset, a file, single settings over it, and what the runs were prepared with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.study.load import load_study, parse_setting, read_yaml

if TYPE_CHECKING:
    from titan_neuro.data.store import RunStore
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder


@dataclass(frozen=True, kw_only=True)
class GivenSettings:
    """What a caller asks for; everything else comes from a preset, or from what was in force before.

    Attributes
    ----------
    preset : str, optional
        Name of a preset. By default that of the kind of data: ``cpu-small`` for volumes, ``parcels`` for others.
    config_file : Path, optional
        YAML: a preset and what differs from it.
    overrides : sequence of str or mapping
        Single settings over the file, later ones over earlier ones; see :func:`titan_neuro.study.load_study`.
    seed : int, optional
        The one seed of weights, order of the runs and bootstrap.
    """

    preset: str | None = None
    config_file: Path | None = None
    overrides: Sequence[str | Mapping[str, Any]] = ()
    seed: int | None = None

    def resolve(self, output: OutputFolder, kind: str, prepared: Mapping[str, Any] | None = None) -> StudyConfig:
        """Put all settings together: a preset or what was in force before, the file, then the overrides.

        Parameters
        ----------
        output : OutputFolder
            Its ``config.resolved.yaml`` stands in for a preset where neither a preset nor a file is given.
        kind : {"volume", "surface", "parcels"}
            Of the data; chooses the preset where none is named.
        prepared : mapping, optional
            Settings of preparation that the runs were made with. They replace the preset's and those in force before:
            an interrupted `prepare` may have left its own there.

        Raises
        ------
        ConfigError, InputNotFoundError
            See :func:`titan_neuro.study.load_study`.
        """
        resolved = output.resolved_settings
        continues = self.config_file is None and self.preset is None and resolved.is_file()
        overrides: list[str | Mapping[str, Any]] = list(self.overrides)
        if continues and prepared:
            overrides = [{"prepare": prepared}, *overrides]
        return load_study(
            default_preset=self.preset or ("cpu-small" if kind == "volume" else "parcels"),
            config_file=resolved if continues else self.config_file,
            overrides=overrides,
            seed=self.seed,
            prepared=prepared,
        )

    def given_resolution_mm(self, output: OutputFolder) -> float | None:
        """Return ``prepare.resolution_mm`` as it is given, before the kind of data is known; None where it is not.

        Parameters
        ----------
        output : OutputFolder
            Its ``config.resolved.yaml`` counts where neither a preset nor a file is given.
        """
        resolved = output.resolved_settings if self.preset is None and output.resolved_settings.is_file() else None
        file = self.config_file or resolved
        given = [read_yaml(file)] if file else []
        value = None
        for over in [*given, *(parse_setting(each) if isinstance(each, str) else each for each in self.overrides)]:
            prepare = over.get("prepare")
            if isinstance(prepare, Mapping):
                value = prepare.get("resolution_mm", value)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            # `resolve` refuses it, with the range that is valid.
            return None

    def resolve_prepared(self, output: OutputFolder, runs: Sequence[RunStore]) -> StudyConfig:
        """Put the settings of a study together whose runs are prepared.

        How they were prepared is settled: it is read from the runs (the place of the atlas: from the settings in force
        before), and a file or an override that says otherwise is refused.

        Raises
        ------
        MismatchError
            Settings of preparation that are not those of the runs, or runs that were prepared differently.
        ConfigError
            A model of volumes, and runs without a grid.
        """
        from titan_neuro.data.prepare import content_id

        _require_same_preparation(runs)
        names = {field.name for field in fields(PrepareConfig)}
        kind, record = runs[0].space.kind, runs[0].record
        prepared = {name: value for name, value in record.get("settings", {}).items() if name in names}
        atlas = None
        if output.resolved_settings.is_file():
            # Where they are damaged, `resolve` refuses them, unless a file or a preset stands in for them.
            with contextlib.suppress(ConfigError):
                atlas = load_study(default_preset="debug", config_file=output.resolved_settings).prepare.atlas
        config = self.resolve(output, kind, {"atlas": atlas and str(atlas), **prepared})
        if kind != "volume" and config.model.tokenizer.kind == "swin":
            found = "parcels" if kind == "parcels" else "vertices of surfaces"
            raise ConfigError(
                f"model.tokenizer: the Swin tokenizer reads volumes, but the runs of {output.path} are {found}, which "
                "have no grid.",
                "Take the linear tokenizer, which reads any features: --set model.tokenizer.kind=linear, or "
                "`preset: parcels` in the file of --config-file.",
            )
        asked = TypeAdapter(PrepareConfig).dump_python(config.prepare, mode="json")
        for name, found in prepared.items():
            if asked[name] != found:
                raise _prepared_otherwise(output, name, asked[name], found)
        if config.prepare.atlas is not None and config.prepare.atlas != atlas:
            used = record.get("sources", {}).get("atlas")
            if used is None or content_id(config.prepare.atlas) != used["content"]:
                raise _prepared_otherwise(output, "atlas", config.prepare.atlas, used and used["name"])
        return config

    def on_top_of(self, config_file: Path) -> GivenSettings:
        """Return the same request, on the settings in `config_file` where no file is given."""
        return (
            self
            if self.config_file is not None or not config_file.is_file()
            else replace(self, config_file=config_file)
        )


def _prepared_otherwise(output: OutputFolder, name: str, asked: object, found: object) -> MismatchError:
    return MismatchError(
        f"{output.path}: the settings say prepare.{name} {asked}, the runs there were prepared with {found}.",
        "Prepare the runs anew with `titan-neuro prepare`, or leave this setting out.",
    )


def _require_same_preparation(runs: Sequence[RunStore]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for name in dict.fromkeys([*first.preparation, *run.preparation]):
            expected, found = first.preparation.get(name), run.preparation.get(name)
            if found != expected:
                raise MismatchError(
                    f"The prepared runs differ in {name}: {first.key} has {expected}, {run.key} has {found}.",
                    "Prepare all runs with the same settings, or each kind into a folder of its own.",
                )
