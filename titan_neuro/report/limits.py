"""What the results don't show: sentences that follow from the data at hand, never a fixed disclaimer."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import (
    BACKBONE_SUFFIX,
    FROZEN_SUFFIX,
    GRU,
    LINEAR_ONLINE,
    SOFT_ANALOGS,
    TRANSFORMER_20,
    VAR,
    VAR_ONLINE,
    Kind,
    control_name,
    count_in_words,
    row_of,
)
from titan_neuro.report.records import Results
from titan_neuro.report.results import lead_times_of
from titan_neuro.report.volumes import voxel_size_mm

_FEWEST_FOR_INTERVALS = 3
_FEW_SUBJECTS = 10
_FEWEST_SEEDS = 3
_COARSE_MM = 6.0
_PROTOCOL_LIMITS = {
    "run": (
        "The model was trained on other runs of the test subjects. The scores don't apply to a subject who is not in "
        "the training data."
    ),
    "subject": (
        "The training subjects saw the same stimulus as the test subjects. What the model gains may be specific to "
        "this stimulus or task."
    ),
}


def limits(results: Results) -> list[str]:
    """Say what the numbers of an output folder do not support.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of str
        A few short sentences each, the gravest first.
    """
    items: list[str] = []
    if results.scores is None:
        items.append("No forecast has been scored. This page does not show how well the model predicts.")
    else:
        scores, main_model = results.scores, results.main_model
        items += _subjects(int(scores["n_subjects"].max()))
        items += _skill(scores, main_model)
        items += [_PROTOCOL_LIMITS[name] for name in scores["protocol"].unique() if name in _PROTOCOL_LIMITS]
        if main_model:
            items += _missing_rows(set(scores["model"]), main_model)
            # The closed form draws nothing at random.
            items += _seeds(int(scores["n_seeds"].max())) if results.has_epochs or not results.training else ()
    return [*items, *_maps(results), *_context(results), *_probes(results)]


def _subjects(n_subjects: int) -> Iterator[str]:
    scored = f"{count_in_words(n_subjects, 'subject')} {'was' if n_subjects == 1 else 'were'} scored."
    if n_subjects < _FEWEST_FOR_INTERVALS:
        people = "this person" if n_subjects == 1 else "these people"
        yield (
            f"{scored} With fewer than {_FEWEST_FOR_INTERVALS} there is no interval and no inference. The numbers "
            f"describe {people} only."
        )
    elif n_subjects < _FEW_SUBJECTS:
        yield (
            f"{scored} Intervals from so few subjects are uncertain. An interval that barely excludes 0 is weak "
            "evidence."
        )


def _skill(scores: pd.DataFrame, main_model: str) -> Iterator[str]:
    rows = scores[scores["kind"] == Kind.MODEL]
    if rows.empty:
        yield "Only baselines were scored. The page does not describe a model with a memory."
        return
    worse = rows[rows["skill_ar"] <= 0]
    if len(worse):
        yield (
            f"At {_lead_times(worse)} {main_model} does not beat linear autoregression. Its maps at these lead times "
            "show no effect of the memory."
        )
    undecided = rows[(rows["skill_ar"] > 0) & (rows["skill_ar_low"] <= 0)]
    if len(undecided):
        yield f"At {_lead_times(undecided)} the interval of skill_ar includes 0. The gain may be due to chance."
    if len(rows) > 1 and rows["skill_ar_low"].notna().any():
        yield f"The intervals are not corrected for multiple comparisons over {len(rows)} lead times."


def _missing_rows(models: set[str], main_model: str) -> Iterator[str]:
    controls = (control_name(main_model, suffix) for suffix in (FROZEN_SUFFIX, BACKBONE_SUFFIX))
    expected = (VAR, VAR_ONLINE, LINEAR_ONLINE, GRU, TRANSFORMER_20, SOFT_ANALOGS[-1], *controls)
    missing = [f"{name} ({row_of(name).label})" for name in expected if name not in models]
    if missing:
        yield f"These rows are not in the table, so {main_model} was not compared with them: {'; '.join(missing)}."


def _seeds(n_seeds: int) -> Iterator[str]:
    if n_seeds < _FEWEST_SEEDS:
        yield (
            f"The model was trained with {count_in_words(n_seeds, 'seed')}. The variation of its scores between seeds "
            f"is not known; it takes at least {_FEWEST_SEEDS}."
        )


def _maps(results: Results) -> Iterator[str]:
    maps = [*results.maps, *([results.timescale] if results.timescale else [])]
    if not maps:
        return
    yield (
        "The maps of the forecast and of timescales are not tested for significance. They show averages over subjects "
        "without a threshold, and the color of a single region is no result."
    )
    if not all(stat_map.images for stat_map in maps):
        yield "The data are parcels without the image of the atlas. The page can't locate a value in the brain."
    volumes = [stat_map for stat_map in maps if stat_map.unit == "voxels"]
    if any(stat_map.sidecar["Space"] == "native" for stat_map in volumes):
        yield (
            "The images are in native space. Positions on the template are approximate, and the pictures don't allow "
            "to name a region."
        )
    size = max((voxel_size_mm(stat_map.path) for stat_map in volumes), default=0.0)
    if size >= _COARSE_MM:
        yield f"Voxels are {size:g} mm wide. Each covers several areas, so no map can be read at the scale of a gyrus."


def _context(results: Results) -> Iterator[str]:
    if results.curve is not None:
        yield (
            "The context-length curve shows how much history this model uses. It does not show that the brain "
            "integrates over as long a time. A timescale is given wherever a longer context gains anything, even by "
            "chance."
        )


def _probes(results: Results) -> Iterator[str]:
    if results.probes:
        yield (
            "The probes describe a model that reads recordings, not the brain itself. A linear probe may miss "
            "information that is there in another form. All probes use the model of the first seed only."
        )
        yield "Each probe corrects for its own tests at most. Nothing corrects for the number of probes."


def _lead_times(rows: pd.DataFrame) -> str:
    points = lead_times_of(rows)
    return f"lead times h = {', '.join(map(str, points))}" if len(points) > 1 else f"lead time h = {points[0]}"
