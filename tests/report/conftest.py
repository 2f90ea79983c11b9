"""A small output folder with plausible numbers, as the stages write it."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from titan_neuro.evaluation.metrics_and_rows import (
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS,
    RESIDUAL_METRICS,
    ROLLOUT_METRICS,
    interval_columns,
)
from titan_neuro.probing.tools.results import RESULT_SUFFIX, SCORES
from titan_neuro.report import write_report
from titan_neuro.report.results import read_results

HORIZONS = (1, 2, 6, 10)
REPETITION_TIME = 1.5
BASELINES_AND_TITAN = ("titan-mac", "mean", "persistence", "ar")
BASELINES = ("mean", "persistence", "ar")
SUMMARY = (
    "titan-mac beats ar at lead times of 1 to 2 time points. It is not shown to differ from ar at lead times of 6 to "
    "10 time points. n = 6 subjects."
)
PARTS = (
    "Averaged over lead times and subjects, the memory that learns at test time adds 0.020 to the skill of titan-mac; "
    "the backbone adds nothing."
)
AR_R2 = {1: 0.44, 2: 0.26, 6: 0.02, 10: 0.02}
TITAN_SKILL = {1: 0.034, 2: 0.061, 6: 0.018, 10: -0.012}


def write_table(path, columns, rows, separator="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(columns)]
    for row in rows:
        cells = ["n/a" if isinstance(cell, float) and np.isnan(cell) else str(cell) for cell in row]
        lines.append(separator.join(cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def scores_of(model, horizon, rng):
    """Five metrics of one subject, of a plausible size."""
    r2 = {
        "mean": -0.002,
        "persistence": 2 * AR_R2[horizon] - 1.02,
        "ar": AR_R2[horizon],
    }.get(model, 1 - (1 - AR_R2[horizon]) * (1 - TITAN_SKILL[horizon])) + rng.normal(0, 0.012)
    ar = 1 - AR_R2[horizon]
    skill_ar = 0.0 if model == "ar" else 1 - (1 - r2) / ar
    skill = 0.0 if model == "persistence" else 1 - (1 - r2) / (2 - 2 * AR_R2[horizon])
    r = float("nan") if model == "mean" else np.sqrt(max(r2, 0.001)) + rng.normal(0, 0.01)
    return dict(zip(METRICS, (skill_ar, skill, r2, r, r * 0.9), strict=True))


@pytest.fixture(scope="session")
def coarse_mask():
    """nilearn's MNI152 brain mask at 12 mm."""
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_img

    return resample_img(load_mni152_brain_mask(resolution=4), np.eye(3) * 12, interpolation="nearest")


class OutputFolder:
    """Writes the parts of an output folder one by one, so that a test can leave one out."""

    def __init__(
        self, root: Path, mask, subjects=("01", "02", "03", "04", "05", "06"), name="Simulated synthetic dataset"
    ):
        self.root, self.mask, self.subjects = root, mask, subjects
        self.group = root / "group"
        self.rng = np.random.default_rng(2718)
        write_json(
            root / "dataset_description.json", {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
        )

    def scores(self, summary=SUMMARY, models=BASELINES_AND_TITAN, protocol="subject", space="MNI152NLin2009cAsym"):
        score_rows, subject_rows = [], []
        for model in models:
            for horizon in HORIZONS:
                by_subject = [scores_of(model, horizon, self.rng) for _ in self.subjects]
                subject_rows += [
                    (model, subject, horizon, 2, 2 * (300 - horizon), *(f"{scores[metric]:.5f}" for metric in METRICS))
                    for subject, scores in zip(self.subjects, by_subject, strict=True)
                ]
                n_subjects = len(self.subjects)
                kind = "baseline" if model in BASELINES else "model"
                row = [model, kind, horizon, horizon * REPETITION_TIME, protocol, n_subjects, 2 * n_subjects]
                row += [2 * n_subjects * (300 - horizon), 1, float("nan")]
                for metric in METRICS:
                    values = np.array([scores[metric] for scores in by_subject])
                    half = 2 * values.std() / np.sqrt(n_subjects) if n_subjects >= 3 else np.nan
                    row += [float(value) for value in (values.mean(), values.mean() - half, values.mean() + half)]
                score_rows.append(row)
        columns = ["model", "kind", LEAD_TIME_POINTS, LEAD_TIME_S, "protocol", "n_subjects", "n_runs", "n_time_points"]
        columns += ["n_seeds", "skill_ar_seed_sd", *interval_columns(METRICS)]
        write_table(self.group / "task-movie_desc-forecast_scores.tsv", columns, score_rows)
        columns = ["model", "subject", LEAD_TIME_POINTS, "n_runs", "n_time_points", *METRICS]
        write_table(self.group / "task-movie_desc-forecast_subjects.tsv", columns, subject_rows)
        sidecar = {
            "Protocol": protocol,
            "Folds": self.folds(),
            "Ablations": PARTS,
            "Summary": summary,
            "Comparisons": [f"{models[0]} is not shown to differ from {models[-1]} at every lead time."],
            "MissingCeilings": {"test-retest": "no segment was shown twice to one subject"},
            "LeadTimePoints": list(HORIZONS),
            "RepetitionTime": REPETITION_TIME,
            "Normalization": "causal expanding z-score",
            "Caveats": [],
            "Space": space,
        }
        write_json(self.group / "task-movie_desc-forecast_scores.json", sidecar)
        write_json(self.group / "task-movie_desc-forecast_subjects.json", {})
        return self

    def folds(self):
        """Three folds; each tests every third subject, and trains on the others."""
        runs = {subject: [f"sub-{subject}_task-movie_run-{run}" for run in (1, 2)] for subject in self.subjects}
        tested = [self.subjects[number::3] for number in range(3)]
        return [
            {
                "number": number,
                "train": [key for subject, keys in runs.items() if subject not in names for key in keys],
                "test": [key for name in names for key in runs[name]],
            }
            for number, names in enumerate(tested, 1)
        ]

    def comparisons(self, others=("ar", "persistence")):
        rows = [
            ("titan-mac", other, horizon, horizon * REPETITION_TIME, len(self.subjects), 0.02, 0.01, 0.03)
            for other in others
            for horizon in HORIZONS
        ]
        columns = ["model", "compared_with", LEAD_TIME_POINTS, LEAD_TIME_S, "n_subjects"]
        columns += interval_columns(["difference"])
        write_table(self.group / "task-movie_desc-forecastcomparisons_scores.tsv", columns, rows)
        return self

    def ablations(self):
        """Of two controls, and what `comparisons` writes for them."""
        frozen, zeroed = "titan-mac-frozen", "titan-mac-backbone-zeroed"
        columns = ["model", "compared_with", "n_subjects", *interval_columns(["mean_difference"]), "effect"]
        rows = [("titan-mac", frozen, len(self.subjects), 0.02, 0.01, 0.03, "adds")]
        rows.append(("titan-mac", zeroed, len(self.subjects), 0.00034, -0.00021, 0.0008, "adds nothing"))
        write_table(self.group / "task-movie_desc-forecastablations_scores.tsv", columns, rows)
        return self.comparisons(("ar", "persistence", frozen, zeroed))

    def rollouts(self, models=BASELINES_AND_TITAN):
        rows, residuals = [], []
        for model in models:
            kind = "baseline" if model in BASELINES else "model"
            for horizon in HORIZONS:
                row = [model, kind, horizon, horizon * REPETITION_TIME, len(self.subjects), 40]
                for value in (-0.01 * horizon, 0.4 / horizon, 1 / horizon, 0.001):
                    row += [value, value - 0.01, value + 0.01]
                rows.append(row)
            residuals.append([model, kind, 0.3, 0.25, 0.35, 14.0, 13.0, 15.0])
        columns = ["model", "kind", LEAD_TIME_POINTS, LEAD_TIME_S, "n_subjects", "n_targets"]
        columns += interval_columns(ROLLOUT_METRICS)
        write_table(self.group / "task-movie_desc-rollout_scores.tsv", columns, rows)
        columns = ["model", "kind", *interval_columns(RESIDUAL_METRICS)]
        write_table(self.group / "task-movie_desc-residuals_scores.tsv", columns, residuals)
        return self

    def smooth_map(self, center, spread):
        from scipy.ndimage import gaussian_filter

        field = gaussian_filter(self.rng.normal(size=self.mask.shape), 1.0)
        return np.where(self.mask.get_fdata() > 0, center + spread * field / field.std(), np.nan)

    def volume(self, stat, desc, data, space="MNI152NLin2009cAsym"):
        entity = "" if space == "native" else f"_space-{space}"
        stem = self.group / f"task-movie{entity}_stat-{stat}_desc-{desc}_statmap"
        self.group.mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(data.astype(np.float32), self.mask.affine).to_filename(f"{stem}.nii.gz")
        write_json(Path(f"{stem}.json"), {"Space": space})

    def volumes(self, space="MNI152NLin2009cAsym"):
        for horizon in HORIZONS[:2]:
            self.volume("skillar", f"titanmacH{horizon}", self.smooth_map(0.03, 0.04), space)
            self.volume("r2", f"titanmacH{horizon}", self.smooth_map(0.45, 0.15), space)
            self.volume("r2", f"arH{horizon}", self.smooth_map(0.43, 0.15), space)
        return self

    def parcel_table(self, stat, desc, labels, values):
        stem = self.group / f"task-movie_seg-Schaefer2018_stat-{stat}_desc-{desc}_statmap"
        rows = [(label, float(value)) for label, value in zip(labels, values, strict=True)]
        write_table(Path(f"{stem}.tsv"), ["parcel", "value"], rows)
        write_json(Path(f"{stem}.json"), {"Space": "Schaefer2018"})

    def parcels(self, labels):
        for desc, stat, center in (("titanmacH1", "skillar", 0.03), ("titanmacH1", "r2", 0.4), ("arH1", "r2", 0.4)):
            self.parcel_table(stat, desc, labels, self.rng.normal(center, 0.05, len(labels)))
        self.parcel_table("timescale", "contextlength", labels, 2.0 ** self.rng.integers(1, 8, len(labels)))
        return self

    def curve(self):
        rows = []
        for horizon in (1, 6):
            for power in range(1, 9):
                series = 2**power
                mean = 0.05 * (1 - np.exp(-series / 40)) - 0.01 * horizon / 6
                rows.append((series, series * 1.5, "false", horizon, 6, mean, mean - 0.008, mean + 0.008))
            rows.append((float("nan"), float("nan"), "true", horizon, 6, mean + 0.004, mean - 0.004, mean + 0.012))
        columns = ("context_time_points", "context_s", "whole_run", LEAD_TIME_POINTS, "n_subjects")
        columns += interval_columns(["skill_ar"])
        write_table(self.group / "task-movie_desc-contextlength_curve.tsv", columns, rows)
        write_json(self.group / "task-movie_desc-contextlength_curve.json", {})
        return self

    def timescale(self):
        seconds = 3.0 * 2.0 ** np.clip(np.round(self.smooth_map(3, 2)), 0, 7)
        self.volume("timescale", "contextlength", seconds)
        return self

    def probe(self, name="history-swap", measures=("skill_ar lost at a lead time of 1 time point",), **metadata):
        rows = []
        for measure in measures:
            for condition, control in (("no history", "False"), ("another subject", "False"), ("untrained", "True")):
                for seconds in (8, 32):
                    value = 0.001 if control == "True" else 0.05 - seconds / 1000
                    row = (measure, condition, control, seconds, value, value - 0.01, value + 0.01, 0.0, -0.005, 0.005)
                    rows.append((*row, 0.00005 if control == "False" else 0.4, len(self.subjects)))
        short = name.replace("-", "")
        write_table(self.group / f"task-movie_desc-{short}_scores.tsv", SCORES, rows)
        content = {"Probe": name, "Asks": "what it loses", "Summary": f"{name} found <b>something</b>."}
        content |= {"x": {"Description": "kept before the forecast", "Units": "s"}, "Test": "sign-flip", **metadata}
        write_json(self.group / f"task-movie_desc-{short}{RESULT_SUFFIX}", content)
        return self

    def training(self):
        columns = ["epoch", "step", "train_loss", "validation_mse", "validation_skill_ar", "seconds", "volumes_per_s"]
        for fold in (1, 2, 3):
            skill = -0.9
            rows = []
            for epoch in range(9):
                loss = float("nan") if epoch == 0 else 0.6 * np.exp(-epoch / 5)
                rows.append((epoch, 40 * epoch, loss, 0.56 * (1 - skill), skill, 4.1, 880.5))
                skill = 0.04 - 0.09 * np.exp(-epoch / 2) + self.rng.normal(0, 0.003)
            write_table(self.root / f"models/seed-7/fold-{fold}/titan-mac/training.csv", columns, rows, separator=",")
        return self

    def prepared(self):
        """The JSON beside two prepared runs of each subject."""
        counts = {"NumberOfTimePoints": 300, "NumberOfScoredTimePoints": 280, "NumberOfFeatures": 1000}
        counts |= {"NumberOfConstantFeatures": 0, "VolumesBeforeSteadyState": 0, "LostParcels": []}
        for subject in self.subjects:
            for run in (1, 2):
                path = self.root / f"sub-{subject}/func/sub-{subject}_task-movie_run-{run}_desc-prepared_bold.json"
                write_json(path, counts | {"NumberOfTimePoints": 300 + run})
        return self

    def records(self):
        config = "preset: demo\nmodel:\n  memory:\n    chunk_size: 16\ntraining:\n  note: <b>not bold</b>\n"
        (self.root / "config.resolved.yaml").write_text(config, encoding="utf-8")
        versions = {"python": "3.11.9", "titan-neuro": "0.1.0", "torch": "2.13.0"}
        common = {"versions": versions, "commit": "0123456789abcdef0123456789abcdef01234567", "machine": "x86_64"}
        common |= {"started": "2026-11-21T10:00:00+00:00", "peak_memory_bytes": 1_503_238_553}
        stages = {
            "prepare sub-01": {
                "arguments": ["run", "bids", "out", "participant"],
                "input_dataset_id": "3d2f1c6e-0000-4000-8000-5e6f7a8b9c0d",
                "input_keys": {f"run-{run}_bold.nii.gz": None if run else "MD5E-s1--0.nii.gz" for run in range(30)},
                "wall_time_s": 12.5,
            },
            **{
                f"train seed-7 fold-{fold}": {"seed": 7, "device": "cpu", "wall_time_s": 200.0 + fold}
                for fold in (1, 2, 3)
            },
            "evaluate": {"arguments": ["evaluate", "out"], "seed": 7, "device": "cpu", "wall_time_s": 4000},
        }
        provenance = {"stages": {name: record | common for name, record in stages.items()}}
        write_json(self.root / "provenance.json", provenance)
        return self


@pytest.fixture
def output_folder(tmp_path, coarse_mask):
    """Function that starts an output folder under ``tmp_path``."""

    def start(folder="out", **keywords):
        return OutputFolder(tmp_path / folder, coarse_mask, **keywords)

    return start


def fill(output):
    return output.scores().ablations().rollouts().volumes().curve().timescale().probe().training().prepared().records()


@pytest.fixture(scope="session")
def shared_output(tmp_path_factory, coarse_mask):
    """Every part, volumes in MNI space, six subjects; written once, to be read only."""
    return fill(OutputFolder(tmp_path_factory.mktemp("shared") / "out", coarse_mask))


@pytest.fixture(scope="session")
def shared_results(shared_output):
    """Its content, read once."""
    return read_results(shared_output.root)


@pytest.fixture
def full_output(shared_output, output_folder):
    """A copy of it that a test may change."""
    output = output_folder()
    shutil.copytree(shared_output.root, output.root, dirs_exist_ok=True)
    return output


@pytest.fixture(scope="session")
def full_report(shared_output):
    """Its page, written once: to be read only."""
    return write_report(shared_output.root)
