"""What a report can't say: sentences that follow from the data at hand, never a fixed disclaimer."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from titan_neuro.report.brain import voxel_size_mm
from titan_neuro.report.results import Results, horizons_of

_FEWEST_FOR_INTERVALS = 3
_FEW_SUBJECTS = 10
_FEWEST_SEEDS = 3
_COARSE_MM = 6.0
_PROTOCOL_LIMITS = {
    "run": (
        "The test runs come from subjects whose other runs were trained on: nothing is said about a person the model "
        "has never seen."
    ),
    "subject": (
        "The training subjects went through the same runs as the test subjects: what the model gained may be knowledge "
        "of this stimulus or task, not of brains at large."
    ),
}


def limits(results: Results) -> list[str]:
    """Sentences on what the numbers of one output folder do not support.

    Parameters
    ----------
    results : Results
        What stands in the output folder.

    Returns
    -------
    list of str
        Plain sentences, the gravest first.
    """
    sentences: list[str] = []
    if results.scores is None:
        sentences.append("No forecast has been scored: this page says nothing about how well the model predicts.")
    else:
        sentences += _of_subjects(int(results.scores["n_subjects"].max()))
        sentences += _of_skill(results.scores, results.main_model)
        sentences += [
            _PROTOCOL_LIMITS[name] for name in results.scores["protocol"].unique() if name in _PROTOCOL_LIMITS
        ]
        sentences += _of_comparison_models(set(results.scores["model"]), results.main_model)
        sentences += _of_seeds(int(results.scores["n_seeds"].max()), results.main_model)
    return [*sentences, *_of_maps(results), *_of_context(results), *_of_probes(results)]


def _of_subjects(n_subjects: int) -> Iterator[str]:
    if n_subjects < _FEWEST_FOR_INTERVALS:
        one = n_subjects == 1
        yield (
            f"{'One subject was' if one else f'{n_subjects} subjects were'} scored: with fewer than "
            f"{_FEWEST_FOR_INTERVALS} there is no interval and no inference. The numbers describe "
            f"{'this person' if one else 'these people'} and nobody else."
        )
    elif n_subjects < _FEW_SUBJECTS:
        yield (
            f"{n_subjects} subjects were scored: an interval from so few hangs on these very people, and one that just "
            "leaves zero out is weak evidence."
        )


def _of_skill(scores: pd.DataFrame, main_model: str) -> Iterator[str]:
    rows = scores[scores["model"] == main_model]
    if rows.empty:
        yield "Only baselines were scored: the page says nothing about a memory model."
        return
    worse = rows[rows["skill_ar"] <= 0]
    if len(worse):
        yield (
            f"At {_in_words(horizons_of(worse))} {main_model} does not beat linear AR: what its maps show there is not "
            "the work of a memory."
        )
    open_ = rows[(rows["skill_ar"] > 0) & (rows["skill_ar_low"] <= 0)]
    if len(open_):
        yield f"At {_in_words(horizons_of(open_))} the interval of skill_ar holds zero: a gain can't be told from none."
    if len(rows) > 1 and rows["skill_ar_low"].notna().any():
        yield f"The intervals are not corrected for the {len(rows)} horizons looked at."


def _of_comparison_models(models: set[str], main_model: str) -> Iterator[str]:
    wanted = {
        "var": "VAR",
        "var-online": "VAR that goes on learning",
        "gru": "a GRU",
        "transformer-20": "a Transformer of 20 time points",
        "soft-analog-160": "analog forecasts",
        f"{main_model}-frozen": "its own memory frozen",
    }
    lacking = [words for name, words in wanted.items() if name not in models]
    if main_model and lacking:
        yield f"Not in the table, so that whether {main_model} beats them is open: {', '.join(lacking)}."


def _of_seeds(n_seeds: int, main_model: str) -> Iterator[str]:
    if main_model and n_seeds < _FEWEST_SEEDS:
        yield (
            f"The model was trained from {'one seed' if n_seeds == 1 else f'{n_seeds} seeds'}: how much its scores "
            f"vary from seed to seed is not known (that takes {_FEWEST_SEEDS} or more)."
        )


def _of_maps(results: Results) -> Iterator[str]:
    maps = [*results.maps, *([results.timescale] if results.timescale else [])]
    if not maps:
        return
    yield (
        "No map of the forecast or of timescales is tested: they show averages over subjects as they are, without a "
        "threshold, and a single colored place is no finding."
    )
    volumes = [one for one in maps if one.is_volume]
    if len(volumes) < len(maps):
        yield (
            "The data are parcels, and no atlas image came with them: the page can't show where in the brain a value "
            "lies."
        )
    if any(one.sidecar["Space"] == "native" for one in volumes):
        yield (
            "The images are in native space: positions on the template are approximate, and no region can be named "
            "from these pictures."
        )
    size = max((voxel_size_mm(one.path) for one in volumes), default=0.0)
    if size >= _COARSE_MM:
        yield f"Voxels are {size:g} mm wide: one holds several areas, and no map can be read at the scale of a gyrus."


def _of_context(results: Results) -> Iterator[str]:
    if results.curve is not None:
        yield (
            "The context-length curve says how much history this model uses. That the brain keeps as much does not "
            "follow from it. A timescale is given wherever a longer context gains anything, be it by chance."
        )


def _of_probes(results: Results) -> Iterator[str]:
    if results.probes:
        yield (
            "The probes read a model that watched a brain. What the model holds is not thereby held by the brain, and "
            "what a linear probe does not find may be there in another form. They ask the first seed's model alone."
        )
        yield "Each probe corrects, if at all, within itself; nothing corrects for the number of probes."


def _in_words(horizons: list[int]) -> str:
    return f"h = {', '.join(map(str, horizons))}"
