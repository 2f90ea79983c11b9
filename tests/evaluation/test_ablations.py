"""What each part adds: differences from the controls over all lead times, and one sentence, by a fixed rule."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch

from titan_neuro.evaluation import ablations_table, comparisons_table, controls_of, format_ablations
from titan_neuro.evaluation.ablations import ablations
from titan_neuro.evaluation.metrics_and_rows import ABLATIONS, EFFECTS, ablation_of, describe_column, effect_of
from titan_neuro.metrics import bootstrap_interval

SUBJECTS = ("11", "12", "13", "14")


@pytest.fixture(scope="module")
def benchmark(make_run, make_forecaster, quick, score):
    """A model whose blocks were never trained, and whose recall gives random forecasts."""
    model = make_forecaster("mac")
    for parameter in (model.decoder.patterns, *model.backbone.gate.parameters()):
        torch.nn.init.zeros_(parameter)
    train = [make_run(subject, 1, n_features=6) for subject in ("01", "02")]
    test = [make_run(subject, 1, n_features=6) for subject in SUBJECTS]
    return score([model, *controls_of(model, train)], train, test, quick)


@pytest.fixture(scope="module")
def table(benchmark):
    return ablations_table(benchmark, n_resamples=1000)


def of(table, suffix):
    return table.set_index("compared_with").loc[f"titan-mac-{suffix}"]


def test_untrained_blocks_add_exactly_nothing(table):
    row = of(table, "blocks-zeroed")
    assert (row["mean_difference"], row["mean_difference_low"], row["mean_difference_high"]) == (0, 0, 0)
    assert row["effect"] == "adds nothing"


def test_a_backbone_that_does_all_of_the_work_adds(make_run, make_forecaster, quick, score):
    """Without linear skip and recall, a few gradient steps on autocorrelated data teach the backbone to forecast."""
    torch.manual_seed(0)
    model = dataclasses.replace(make_forecaster("lmm", horizons=(1,)).config, recall=None).build(n_features=6)
    train = [make_run(subject, 1, n_features=6) for subject in ("01", "02")]
    series = torch.stack([run.read(0, run.n_time_points) for run in train])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        forecasts, _ = model(series)
        optimizer.zero_grad()
        (forecasts[:, :-1, 0] - series[:, 1:]).square().mean().backward()
        optimizer.step()
    test = [make_run(subject, 1, n_features=6) for subject in SUBJECTS]
    table = ablations_table(score([model, *controls_of(model, train)], train, test, quick), n_resamples=1000)
    [row] = [row for _, row in table.iterrows() if row["compared_with"] == "titan-lmm-backbone-zeroed"]
    assert row["effect"] == "adds" and row["mean_difference"] > 0.05
    assert f"the backbone adds {row['mean_difference']:.3f}" in ablations(table)


def test_the_difference_is_averaged_over_lead_times_within_subjects(benchmark, table):
    values = np.mean(
        [
            benchmark.scores.subject_values("skill_ar", "titan-mac", horizon)
            - benchmark.scores.subject_values("skill_ar", "titan-mac-recall-zeroed", horizon)
            for horizon in (1, 3)
        ],
        axis=0,
    )
    row = of(table, "recall-zeroed")
    assert row["mean_difference"] == pytest.approx(values.mean())
    expected = bootstrap_interval(values, n_resamples=1000, seed=0)
    assert (row["mean_difference_low"], row["mean_difference_high"]) == expected
    # Forecasts at random are worse than none.
    assert row["effect"] == "harms"
    assert row["n_subjects"] == 4


def test_each_control_is_compared_at_each_lead_time(benchmark, table):
    compared = comparisons_table(benchmark, repetition_time_s=1.5, n_resamples=1000)
    assert list(table["compared_with"]) == list(compared["compared_with"].unique())
    lines = format_ablations(table, compared).splitlines()
    assert "h = 3 (4.5 s)" in lines[0] and "mean over h" in lines[0]
    [line] = [line for line in lines if "titan-mac-blocks-zeroed" in line]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:] == ["blocks of the backbone zeroed", *["0.0000 [0.0000, 0.0000]"] * 3, "adds nothing"]


def test_models_without_controls_have_no_ablations(make_run, oracle, quick, score):
    runs = [make_run("11", 1), make_run("12", 1)]
    benchmark = score([oracle(runs, 0.5)], [make_run("01", 1)], runs, quick)
    table = ablations_table(benchmark, n_resamples=1000)
    assert table.empty
    assert ablations(table) == ""


def test_a_gru_stands_beside_the_controls(make_run, oracle, quick, score):
    runs = [make_run(subject, 1) for subject in SUBJECTS]
    models = [oracle(runs, 0.5, name="titan-mac"), oracle(runs, 0.3, name="gru")]
    table = ablations_table(score(models, [make_run("01", 1)], runs, quick), n_resamples=1000)
    assert [*table["compared_with"]] == ["gru"] and [*table["effect"]] == ["adds"]
    # The sentence is about the model's own parts.
    assert ablations(table) == ""


def rows_of(n_subjects=6, **found):
    """A table of ablations; a part has its mean difference and effect, such as ``frozen=(0.02, "adds")``."""
    names = [name.replace("_", "-") for name in found]
    return pd.DataFrame(
        {
            "model": "titan-mac",
            "compared_with": [f"titan-mac-{name}" for name in names],
            "n_subjects": n_subjects,
            "mean_difference": [mean for mean, _ in found.values()],
            "effect": [effect for _, effect in found.values()],
        }
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            {"frozen": (0.0214, "adds"), "reset20": (0.1, "adds"), "backbone_zeroed": (0.0003, "adds nothing")},
            "the memory that learns at test time adds 0.021 to the skill of titan-mac; the backbone adds nothing.",
        ),
        (
            {"frozen": (0.0001, "adds nothing"), "backbone_zeroed": (-0.004, "harms"), "recall_zeroed": (0.1, "adds")},
            "the memory that learns at test time adds nothing to the skill of titan-mac; the backbone harms: it "
            "takes 0.004. The recall as a whole adds 0.100.",
        ),
        (
            {
                "frozen": (0.02, "adds"),
                "backbone_zeroed": (0.03, "adds"),
                "swin_zeroed": (0.01, "adds"),
                "swin_random_means": (0.012, "adds"),
            },
            "the memory that learns at test time adds 0.020 to the skill of titan-mac; the backbone adds 0.030; "
            "the Swin encoder adds 0.010.",
        ),
        (
            {
                "backbone_zeroed": (-0.02, "harms"),
                "swin_zeroed": (0.01, "adds"),
                "swin_random_means": (0.0002, "adds nothing"),
            },
            "the backbone harms: it takes 0.020 from the skill of titan-mac; the Swin encoder, compared with random "
            "spatial means, adds nothing.",
        ),
    ],
)
def test_one_sentence_says_what_each_part_adds(found, expected):
    sentence = ablations(rows_of(**found))
    assert sentence == f"Averaged over lead times and subjects, {expected}"
    assert all(len(re.findall(r"[0-9.]*[0-9]", one)) <= 3 for one in re.split(r"(?<=\.) ", sentence))


def test_without_intervals_nothing_is_claimed():
    sentence = ablations(rows_of(n_subjects=1, frozen=(0.1, "not known"), backbone_zeroed=(0.0, "not known")))
    assert sentence == (
        "What the memory that learns at test time or the backbone adds to the forecasts of titan-mac is not known: "
        "there is no interval over subjects."
    )


@pytest.mark.parametrize(
    ("values", "effect"),
    [
        ([0.02, 0.03, 0.02], "adds"),
        ([0.0004, 0.0005, 0.0006], "adds nothing"),
        ([-0.02, 0.03, 0.02], "adds nothing"),
        ([-0.02, -0.03, -0.02], "harms"),
        ([-0.0004, -0.0005, -0.0006], "adds nothing"),
        ([0.02, 0.03], "not known"),
    ],
)
def test_effects_follow_their_rule(values, effect):
    assert effect_of(float(np.mean(values)), *bootstrap_interval(np.array(values), n_resamples=1000, seed=0)) == effect
    assert EFFECTS[effect] in describe_column("effect")["Description"]


def test_every_control_is_defined_once():
    for suffix, ablation in ABLATIONS.items():
        assert ablation_of(f"titan-mal-{suffix}") == ablation
        assert ablation.definition.endswith(".")
    assert ablation_of("titan-mac") is None
