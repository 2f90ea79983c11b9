"""Synthetic datasets with a known ground truth: does the forecaster find what only a memory can predict?

``OMP_NUM_THREADS=1 python benchmarks/ground_truth.py`` makes the whole table; ``--variants lmm mac mag mal`` trains
every Titans variant. The datasets have nine subjects and no stimulus:

- ``associations``: each cue is followed by a response ten time points later; the pairs are drawn anew in each subject.
- ``nothing``: the same dataset without cues and responses.
- ``delayed_responses``: activity reappears after 30, 120 and 300 time points, in voxels of its own.
- ``drift`` (not by default): ``nothing``, with a drift whose spatial pattern differs between runs.

Every subject is held out once. Rows are scored on the same time points; differences of `skill_ar` are taken within each
subject, and their 95 % intervals are over subjects.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from common import ROOT, provenance, use_one_thread

from titan_neuro.baselines import make_baselines
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.store import open_runs
from titan_neuro.evaluation import FrozenMemory, ResetMemory, draw_offset, markdown_table
from titan_neuro.evaluation.streaming import score_run
from titan_neuro.files import write_json, write_text
from titan_neuro.forecaster import ForecasterConfig, match_comparison_models
from titan_neuro.metrics import bootstrap_interval
from titan_neuro.study import Study, StudyConfig, load_study
from titan_neuro.study.models import study_folds
from titan_neuro.training import FoldData, load_forecaster, train_fold
from titan_neuro.typing import ForecastModel

VARIANTS = ("lmm", "mac", "mag", "mal")
# Noise is all that is added to the ground truth. A stimulus would be recalled; spontaneous activity is shared by the
# voxels of a region, so that one predicts the other; the pattern of a drift differs between runs, and would be learned.
SHARED = {"stimulus_fraction": 0.0, "spontaneous_fraction": 0.0, "drift_fraction": 0.0, "cue_interval_s": 5.0}
SYNTHETIC_DATASETS: dict[str, dict[str, Any]] = {
    "associations": {"association_fraction": 0.3},
    "nothing": {},
    "delayed_responses": {"delayed_response_fraction": 0.4, "delayed_response_lags_s": (30, 120, 300)},
    "drift": {"drift_fraction": 0.1},
}
BASELINES = ("var", "ar")
COMPARISON_MODEL = "transformer-20"
WHOLE_BRAIN = "all"
# Each voxel of the synthetic dataset is a feature, which the linear tokenizer reads as it does a parcel.
SETTINGS = (
    *("model.horizons=[1, 3, 10]", "evaluation.max_offset_time_points=20"),
    *("training.max_epochs=3", "training.patience=1", "training.n_streams=8", "training.steps_per_epoch=16"),
)
SMALL_MODEL = (
    *("recall.width=128", "recall.n_components=64", "recall.longest_lag=320"),
    *("lookahead.n_components=24", "lookahead.n_lags=12", "lookahead.key_width=128"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is simulated and trained.

    Attributes
    ----------
    n_subjects, n_runs : int
    volume_scale : float
        Length of the runs; 1 is about 550 time points.
    voxel_size_mm : float
    settings : tuple of str
        Of the study, as ``--set`` takes them.
    """

    n_subjects: int = 9
    n_runs: int = 2
    volume_scale: float = 1.0
    voxel_size_mm: float = 15.0
    settings: tuple[str, ...] = (*SETTINGS, *(f"model.{setting}" for setting in SMALL_MODEL))


def make_synthetic(name: str, size: Size, folder: Path) -> tuple[Path, Path]:
    """Simulate and prepare one of `SYNTHETIC_DATASETS` unless that was done; return dataset and prepared folder."""
    source, prepared = folder / f"{name}_bids", folder / name
    sizes = {field: getattr(size, field) for field in ("n_subjects", "n_runs", "volume_scale", "voxel_size_mm")}
    simulate(source, SimulateConfig(**(SHARED | SYNTHETIC_DATASETS[name] | sizes)))
    Study.open(source, prepared).prepare()
    return source, prepared


def places_of(source: Path, data: FoldData) -> dict[str, np.ndarray]:
    """Voxels of each part of the ground truth, by name, and all voxels: bool ``(features,)``."""
    truth = source / "derivatives/truth"
    places = {WHOLE_BRAIN: np.ones(data.space.n_features, dtype=bool)}
    table = truth / "desc-memory_dseg.tsv"
    if table.is_file():
        [image] = truth.glob("*_desc-memory_dseg.nii.gz")
        labels = np.asarray(nib.load(image).dataobj)[data.space.mask]
        places |= {row.name: labels == row.index for row in pd.read_csv(table, sep="\t").itertuples(index=False)}
    return places


def study_of(size: Size, variant: str) -> StudyConfig:
    """Settings of a study with one of the variants."""
    return load_study(default_preset="parcels", overrides=[f"model.backbone.variant={variant}", *size.settings])


def score_synthetic(
    source: Path, prepared: Path, size: Size, variants: Sequence[str], seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Train and score every fold of a synthetic dataset.

    Yields
    ------
    dict
        ``seed``, ``subject``, ``row``, ``place``, ``horizon`` and ``squared_error`` of one run.
    """
    stores = open_runs(prepared)
    study = study_of(size, variants[0])
    for data in study_folds(stores, study):
        places = places_of(source, data)
        baselines = [row for row in make_baselines(study.model.horizons) if row.name in BASELINES]
        train = data.select((*data.fold.train, *data.fold.validation))
        for row in baselines:
            row.fit(train)
        for seed in seeds:
            rows = [*_trained(data, prepared, size, variants, seed), *baselines]
            for run in data.select(data.fold.test):
                offset = draw_offset(run, seed, study.evaluation)
                statistics = score_run(rows, run, study.evaluation.block_time_points, offset).low_motion
                for place, voxels in places.items():
                    errors = statistics.squared_error[..., voxels].sum(axis=-1)
                    for lead, horizon in enumerate(study.model.horizons):
                        for row, error in zip(rows, errors[lead], strict=True):
                            labels = {"seed": seed, "subject": run.subject, "row": row.name, "place": place}
                            yield labels | {"horizon": horizon, "squared_error": float(error)}


def _trained(data: FoldData, prepared: Path, size: Size, variants: Sequence[str], seed: int) -> Iterator[ForecastModel]:
    """The variants, each with the controls of its memory, and a Transformer with as many parameters as the first."""
    configs = {variant: study_of(size, variant) for variant in variants}
    for variant, study in configs.items():
        model = _train(data, prepared, study, study.model, seed, variant)
        yield model
        yield from (FrozenMemory(model), ResetMemory(model))
    study = configs[variants[0]]
    comparison_models = match_comparison_models(study.model, n_features=data.space.n_features)
    [transformer] = [model for model in comparison_models if model.backbone.name == COMPARISON_MODEL]
    yield _train(data, prepared, study, transformer, seed, COMPARISON_MODEL)


def _train(
    data: FoldData, prepared: Path, study: StudyConfig, model: ForecasterConfig, seed: int, name: str
) -> ForecastModel:
    folder = prepared / "models" / f"seed-{seed}" / f"fold-{data.fold.number}" / name
    train_fold(data, model, study.training, folder=folder, work_dir=prepared / ".work", seed=seed)
    return load_forecaster(folder, "cpu")[0]


def skills(errors: pd.DataFrame) -> pd.DataFrame:
    """`skill_ar` of each subject: the mean over the seeds, errors summed over the runs."""
    keys = ["place", "horizon", "seed", "subject"]
    wide = errors.pivot_table("squared_error", keys, "row", aggfunc="sum")
    skill = 1 - wide.div(wide["ar"], axis=0)
    return skill.groupby(level=["place", "horizon", "subject"]).mean()


def compare(skill: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Differences of each variant from every other row, and from its own controls, with intervals over subjects."""
    rows = []
    for variant in variants:
        main = f"titan-{variant}"
        for other in ("ar", "var", COMPARISON_MODEL, f"{main}-frozen", f"{main}-reset20"):
            for (place, horizon), part in skill.groupby(level=["place", "horizon"], sort=False):
                difference = (part[main] - part[other]).to_numpy()
                low, high = bootstrap_interval(difference, n_resamples=10_000, seed=0)
                interval = {"difference": float(difference.mean()), "low": low, "high": high}
                rows.append({"model": main, "other": other, "place": place, "horizon": int(horizon)} | interval)
    return pd.DataFrame(rows)


def expectations(synthetic: str, differences: pd.DataFrame) -> list[dict[str, Any]]:
    """Which differences must lie above 0 in a synthetic dataset, and which must not, and whether they do."""
    if synthetic == "delayed_responses":
        # In the voxels of the delayed responses, against rows that see no further than a window.
        others = ("ar", COMPARISON_MODEL, "reset20")
        places = [place for place in differences["place"] if place.startswith("delayed-")]
    else:
        others, places = ("ar", COMPARISON_MODEL, "frozen"), [WHOLE_BRAIN]
    expected = synthetic in {"associations", "delayed_responses"}
    checked = []
    for _, row in differences.iterrows():
        other = row["other"].removeprefix(f"{row['model']}-")
        if synthetic != "drift" and other in others and row["place"] in places:
            above = bool(row["low"] > 0)
            checked.append({**row.to_dict(), "above 0": above, "expected": expected, "as expected": above == expected})
    return checked


def page(results: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any]) -> str:
    """All synthetic datasets as one Markdown page."""
    parts = ["# Ground truth", "\n".join(f"- {name}: {value}" for name, value in metadata.items())]
    for synthetic, result in results.items():
        skill, differences = pd.DataFrame(result["skill_ar"]), pd.DataFrame(result["differences"])
        horizons = sorted(skill["horizon"].unique())
        heading = ["voxels", "row", *(f"h {horizon}" for horizon in horizons)]
        lines = []
        for (place, row), part in skill.groupby(["place", "row"], sort=False):
            lines.append([place, row, *(f"{value:.3f}" for value in part.set_index("horizon")["skill_ar"][horizons])])
        parts += [f"## {synthetic}", "`skill_ar`, mean over the subjects:", markdown_table(heading, lines)]
        heading, lines = ["voxels", "difference", *heading[2:]], []
        for (place, model, other), part in differences.groupby(["place", "model", "other"], sort=False):
            cells = [f"{row.difference:.4f} [{row.low:.4f}, {row.high:.4f}]" for row in part.itertuples()]
            lines.append([place, f"{model} - {other}", *cells])
        parts += ["Differences within the subjects, with 95 % intervals over them:", markdown_table(heading, lines)]
        expected = result["expectations"]
        unmet = [row for row in expected if not row["as expected"]]
        parts.append(f"{len(expected) - len(unmet)} of {len(expected)} expectations are met.")
        parts += [
            f"- {row['model']} - {row['other']}, {row['place']}, h = {row['horizon']}: {row['difference']:.4f} "
            f"[{row['low']:.4f}, {row['high']:.4f}], expected {'above' if row['expected'] else 'not above'} 0"
            for row in unmet
        ]
    return "\n\n".join(parts) + "\n"


def run(name: str, size: Size, variants: Sequence[str], seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Simulate, train and score one synthetic dataset.

    Returns
    -------
    dict
        JSON: ``skill_ar`` of each row, ``differences``, ``expectations``.
    """
    source, prepared = make_synthetic(name, size, folder)
    skill = skills(pd.DataFrame(score_synthetic(source, prepared, size, variants, seeds)))
    differences = compare(skill, variants)
    mean = skill.groupby(level=["place", "horizon"], sort=False).mean().stack().rename("skill_ar").reset_index()
    return {
        "skill_ar": mean.to_dict("records"),
        "differences": differences.to_dict("records"),
        "expectations": expectations(name, differences),
    }


def main(arguments: list[str]) -> int:
    """Make the tables, print and write them; return 1 where an expectation is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=SYNTHETIC_DATASETS, default=list(SYNTHETIC_DATASETS)[:3])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["mac"])
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--work-dir", type=Path, help="folder of synthetic datasets and models (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/ground_truth.json")
    options = parser.parse_args(arguments)
    use_one_thread()
    logging.getLogger("titan_neuro").setLevel(logging.WARNING)
    size, results = Size(), {}
    metadata = provenance(arguments) | {
        "simulated": f"{size.n_subjects} subjects, {size.n_runs} runs, {size.voxel_size_mm:g} mm; {SHARED}; "
        f"{SYNTHETIC_DATASETS}",
        "settings": f"preset parcels, {', '.join(size.settings)}; {options.seeds} seed(s)",
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.datasets:
            folder = options.work_dir or Path(temporary)
            results[name] = run(name, size, options.variants, range(options.seeds), folder)
            # Written after each dataset, in case the run is stopped.
            write_json(options.output, {**metadata, "synthetic_datasets": results})
            write_text(options.output.with_suffix(".md"), page(results, metadata))
    print(page(results, metadata))
    return int(not all(row["as expected"] for result in results.values() for row in result["expectations"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
