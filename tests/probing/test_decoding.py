"""Labels that only the history predicts must be decoded from the memory, and nothing from noise."""

import json

import numpy as np
import pytest
import torch
from delay_memory import N_FEATURES, REACH, delay_forecaster, fold_of, mac_forecaster, probe_setup, run_probe
from scipy.stats import binom

from titan_neuro.errors import ConfigError, MetadataError
from titan_neuro.probing.decoding import DecodingProbe
from titan_neuro.probing.probe_settings import DecodingConfig
from titan_neuro.probing.tools.annotations import EventAnnotation
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    TOKENS,
    UNTRAINED_OUTPUT,
)
from titan_neuro.runs import InMemoryRun

ACROSS = f"{MEMORY_OUTPUT}, other time segments"
DIFFERENCE = f"{MEMORY_OUTPUT} less {ACTIVITY_PATTERN}"


def labeled_run(subject, *, own_stimulus=False, n_time_points=160, run="01", labeled=True):
    """One of two things is shown at each time point, visible in the first feature; the label follows REACH later."""
    shown = np.random.default_rng([0, int(subject) if own_stimulus else 0, int(run)]).choice(
        (-1, 1), size=n_time_points
    )
    series = np.random.default_rng([7, 0, int(subject), int(run)]).normal(size=(n_time_points, N_FEATURES))
    series[:, 0] += 3 * shown
    labeled_run = InMemoryRun(
        torch.from_numpy(series.astype(np.float32)),
        key=f"sub-{subject}_task-x_run-{run}",
        subject=subject,
        stimulus=f"movie-{subject}-{run}" if own_stimulus else "movie",
        stimulus_start=0,
    )
    labeled_run.high_motion[50:53] = True
    labels = ["face" if sign > 0 else "house" for sign in shown[: n_time_points - REACH]] if labeled else []
    labeled_run.events = (
        (0.0, float(n_time_points), "movie"),
        *((t + REACH, 1.0, label) for t, label in enumerate(labels)),
    )
    return labeled_run


def make_probe(n_permutations=500, **settings):
    setup = probe_setup(n_permutations=n_permutations, n_resamples=500)
    return DecodingConfig(**{"delay_s": 0.0, **settings}).build(setup)


def decode(probe, test_runs, training_runs):
    results = run_probe(probe, fold_of(delay_forecaster(), test_runs, training_runs, mac_forecaster()))
    assert list(results.tables["scores"]) == list(SCORES)
    json.dumps(results.metadata, allow_nan=False)
    return results, results.tables["scores"].set_index("condition")


def test_labels_of_history_are_decoded_from_memory():
    test_runs, training_runs = ([labeled_run(f"0{n}") for n in numbers] for numbers in ((1, 2, 3, 4, 5), (6, 7, 8)))
    results, scores = decode(make_probe(), test_runs, training_runs)
    for condition in (MEMORY_OUTPUT, ACROSS):
        assert scores.value[condition] > 0.95 and scores.p[condition] < 0.01
        assert scores.low[condition] <= scores.value[condition] <= scores.high[condition]
        assert abs(scores.null[condition] - 0.5) < 0.02 and not scores.is_control[condition]
    across = f"{ACTIVITY_PATTERN}, other time segments"
    for condition in (ACTIVITY_PATTERN, across, TOKENS, TIME_POLYNOMIAL, UNTRAINED_OUTPUT):
        assert abs(scores.value[condition] - 0.5) < 0.1 and scores.is_control[condition]
    # The smallest one-sided p of five subjects.
    assert scores.p[DIFFERENCE] == 1 / 2**5
    assert scores.x[ACROSS] == 20 and scores.x[MEMORY_OUTPUT] == 0
    assert results.metadata["Classes"] == {"trial_type": 2} and "n = 5" in results.summary
    assert results.metadata["Subjects"] == ["01", "02", "03", "04", "05"]
    assert f"{scores.value[ACROSS]:.3f}" in results.summary


def test_delay_shifts_labels():
    # The label follows REACH time points after what is shown; another 3 s later the memory does not contain it.
    runs = [labeled_run(f"0{n}") for n in (1, 2, 6, 7)]
    _, scores = decode(make_probe(delay_s=3.0), runs[:2], runs[2:])
    assert abs(scores.value[MEMORY_OUTPUT] - 0.5) < 0.12


def test_runs_of_different_lengths_and_stimuli():
    test_runs = [labeled_run("01", own_stimulus=True, run=run, n_time_points=n) for run, n in (("01", 120), ("02", 75))]
    training_runs = [
        labeled_run("01", own_stimulus=True, run=run, n_time_points=n) for run, n in (("03", 160), ("04", 90))
    ]
    results, scores = decode(make_probe(), test_runs, training_runs)
    assert scores.value[MEMORY_OUTPUT] > 0.9 and scores.n_subjects[MEMORY_OUTPUT] == 1
    # No training run has the stimulus: all time points are others. One subject has no sign-flip test.
    assert ACROSS not in scores.index
    assert np.isnan(scores.low[MEMORY_OUTPUT]) and np.isnan(scores.p[DIFFERENCE])
    assert any("one subject" in reason for reason in results.metadata["NotTested"])


@pytest.mark.parametrize("labeled", [(False, False), (True, False)])
def test_study_without_labels_has_empty_row(labeled):
    runs = ([labeled_run(subject, labeled=has)] for subject, has in zip(("01", "02"), labeled, strict=True))
    results, scores = decode(make_probe(), *runs)
    assert len(scores) == 1 and np.isnan(scores.value.iloc[0])
    assert results.summary.startswith("Nothing was decoded: sub-01_task-x_run-01:")


def test_study_without_runs_has_empty_row():
    results, scores = decode(make_probe(), [], [])
    assert len(scores) == 1 and results.summary == "Nothing was decoded: there is no held-out run."


def test_runs_with_one_class_are_reported():
    one_class, other = labeled_run("01"), labeled_run("02")
    one_class.events = ((0.0, 100.0, "face"),)
    results, scores = decode(make_probe(), [one_class, other], [labeled_run("06")])
    assert scores.n_subjects[MEMORY_OUTPUT] == 1
    reasons = results.metadata["NotTested"]
    assert any("sub-01" in reason and "fewer than two classes" in reason for reason in reasons)
    training_run = labeled_run("06")
    training_run.events = ((0.0, 100.0, "face"),)
    results, scores = decode(make_probe(), [other], [training_run])
    assert np.isnan(scores.value).all() and "fewer than two classes" in results.summary


def slow_runs(rng, n_runs, n_time_points=160):
    """Runs with slow features that all subjects share, and slow labels that are unrelated to them."""
    series = rng.normal(size=(9, n_time_points + 100))
    for t in range(1, n_time_points + 100):
        series[:, t] += 0.8 * series[:, t - 1]
    runs = [labeled_run(f"0{n}", labeled=False) for n in range(n_runs)]
    for run in runs:
        run.slow = (series[:8, 100:] + rng.normal(size=(8, n_time_points))).T
    return runs, series[8, 100:]


@pytest.mark.parametrize("n_seeds", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_unrelated_labels_generalize_at_nominal_rate(monkeypatch, n_seeds):
    """With a shared stimulus its time points are decoded, and so unrelated labels; across segments they are not."""
    monkeypatch.setattr(
        DecodingProbe, "_readouts", lambda _, fold, run: {MEMORY_OUTPUT: (run.slow, np.arange(run.n_time_points))}
    )
    n_significant = np.zeros(2)
    for seed in range(n_seeds):
        runs, labels = slow_runs(np.random.default_rng(seed), 5)
        probe = make_probe(n_permutations=200)
        probe._tables = [
            EventAnnotation(name="x", onsets=np.arange(160.0), durations=np.ones(160), values=labels, entities={})
        ]
        scores = run_probe(probe, fold_of(None, runs[:3], runs[3:])).tables["scores"].set_index("condition")
        n_significant += [scores.p[name] <= 0.05 for name in (MEMORY_OUTPUT, ACROSS)]
    # A decoder of other time segments errs towards scores below chance, never above.
    assert n_significant[1] <= binom.ppf(0.995, n_seeds, 0.05), n_significant
    assert n_significant[0] > 0.2 * n_seeds, n_significant


def write_table(path, text):
    path.write_text(text.replace(" ", "\t"))
    return str(path)


def test_numbers_of_table_are_decoded(tmp_path):
    signs = [(onset, 1 if label == "face" else -1) for onset, _, label in labeled_run("01").events[1:]]
    rows = "".join(f"{t} 1 {sign}\n" for t, sign in signs)
    table = write_table(tmp_path / "task-x_desc-sign_events.tsv", f"onset duration sign\n{rows}")
    runs = [labeled_run(f"0{n}", labeled=False) for n in range(1, 7)]
    results, scores = decode(make_probe(tables=(table,)), runs[:3], runs[3:])
    assert scores.value[ACROSS] > 0.9 and abs(scores.value[ACTIVITY_PATTERN]) < 0.25
    assert set(scores.measure) == {"sign sign: r", "sign sign: r, difference (Fisher z)"}
    assert "with r 0.9" in results.summary


def test_readout_without_labels_is_skipped(tmp_path):
    table = write_table(tmp_path / "task-x_run-09_desc-other_events.tsv", "onset duration size\n0 1 1\n")
    runs = [labeled_run(f"0{n}") for n in (1, 2, 6, 7)]
    for run in runs[2:]:
        # No label at the time points at which memory weights are read.
        run.events = tuple(event for event in run.events if event[0] % 8 != 7)[1:]
    results, scores = decode(make_probe(tables=(table,)), runs[:2], runs[2:])
    assert MEMORY_OUTPUT in scores.index and MEMORY_WEIGHTS not in scores.index
    assert any(reason.startswith(f"{MEMORY_WEIGHTS}: ") for reason in results.metadata["NotTested"])
    assert "other size: labels no time point that was decoded." in results.metadata["NotTested"]


def test_continuous_tables_of_runs_are_decoded():
    runs = [labeled_run(f"0{n}", labeled=False) for n in (1, 2, 6, 7)]
    for run in runs:
        signs = [1 if label == "face" else -1 for _, _, label in labeled_run(run.subject).events[1:]]
        shown = np.concatenate([np.full(REACH, np.nan), signs]).astype(np.float32)
        noise = np.random.default_rng([1, int(run.subject)]).normal(size=160).astype(np.float32)
        run.continuous = {"stim sign": shown, "recording-eye1_physio pupil": noise}
    _, scores = decode(make_probe(columns=("sign", "*pupil")), runs[:2], runs[2:])
    rows = scores[scores.measure == "stim sign: r"]
    assert rows.value[ACROSS] > 0.9 and abs(rows.value[ACTIVITY_PATTERN]) < 0.25
    assert abs(rows.null[ACROSS]) < 0.05 and rows.p[ACROSS] < 0.05
    assert abs(scores[scores.measure == "recording-eye1_physio pupil: r"].value[MEMORY_OUTPUT]) < 0.3
    _, scores = decode(make_probe(columns=("stim s?gn",)), runs[:2], runs[2:])
    assert set(scores.measure) == {"stim sign: r", "stim sign: r, difference (Fisher z)"}
    with pytest.raises(ConfigError, match="'loudness' is in no table") as caught:
        decode(make_probe(columns=("sign", "loudness")), runs[:2], runs[2:])
    assert "stim sign, recording-eye1_physio pupil" in caught.value.hint


def test_columns_choose_among_all_tables(tmp_path):
    table = write_table(tmp_path / "task-x_desc-two_events.tsv", "onset duration size weight\n0 80 1 2\n80 60 2 1\n")
    runs = [labeled_run(f"0{n}") for n in (1, 2, 6, 7)]
    results, scores = decode(make_probe(tables=(table,), columns=("size",)), runs[:2], runs[2:])
    assert set(scores.measure.str.partition(":")[0]) == {"two size"}
    assert not any("weight" in reason for reason in results.metadata["NotTested"])


def with_columns(run):
    """The label as a column of text of the run's own events, and a number; ``trial_type`` says nothing."""
    labels = [kind for *_, kind in run.events]
    run.events = tuple((onset, duration, "shot") for onset, duration, _ in run.events)
    run.event_columns = {
        "kind": ["" if kind == "movie" else kind for kind in labels],
        "size": [{"face": "2.5", "house": "1"}.get(kind, "") for kind in labels],
    }
    return run


def test_further_columns_of_events_are_decoded_when_named():
    runs = [with_columns(labeled_run(f"0{n}")) for n in (1, 2, 3, 4, 5, 6, 7)]
    results, scores = decode(make_probe(columns=("kind", "size", "no*pattern")), runs[:5], runs[5:])
    measures = {"kind: balanced accuracy": "kind", "size: r": "size"}
    assert {name for name in scores.measure if "difference" not in name} == measures.keys()
    for measure in measures:
        rows = scores[scores.measure == measure]
        assert rows.value[ACROSS] > 0.9 and rows.p[ACROSS] < 0.01
        for control in (ACTIVITY_PATTERN, UNTRAINED_OUTPUT, TIME_POLYNOMIAL):
            across = f"{control}, other time segments"
            assert rows.is_control[across] and rows.value[across] < (0.65 if "kind" in measure else 0.3)
    assert results.metadata["Classes"] == {"kind": 2}
    assert "kind is decoded with balanced accuracy" in results.summary and "size is decoded with r" in results.summary
    assert "n = 5): kind, size;" in results.summary and results.summary.count(". ") == 1
    # Without being named they are not decoded.
    results, scores = decode(make_probe(), runs[:5], runs[5:])
    assert not scores.measure.str.startswith(("kind", "size")).any() and "Nothing was decoded" in results.summary
    runs[0].event_columns["size"][20] = "large"
    with pytest.raises(MetadataError, match="size: expected numbers in all runs, or text in all, found both"):
        decode(make_probe(columns=("size",)), runs[:5], runs[5:])
    with pytest.raises(ConfigError, match="'knd' is in no table"):
        decode(make_probe(columns=("kind", "knd")), runs[:5], runs[5:])


def test_labels_are_decoded_with_lags():
    # The memory recalls what was shown REACH before: at that lag, and no other, it holds what the events say now.
    runs = [labeled_run(f"0{n}") for n in (1, 2, 6, 7)]
    for run in runs:
        run.events = (run.events[0], *((onset - REACH, *rest) for onset, *rest in run.events[1:]))
    results, scores = decode(make_probe(lags_s=(0.0, float(REACH))), runs[:2], runs[2:])
    now, before = (
        scores[scores.measure == f"{name}: balanced accuracy"].value
        for name in ("trial_type", "trial_type, 12 s before")
    )
    assert before[ACROSS] > 0.9 and abs(before[ACTIVITY_PATTERN] - 0.5) < 0.12
    assert now[ACTIVITY_PATTERN] > 0.9 and abs(now[MEMORY_OUTPUT] - 0.5) < 0.12
    assert "trial_type, 12 s before is decoded" in results.summary and "in so few subjects" in results.summary
