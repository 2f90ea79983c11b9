import re

import numpy as np
import pandas as pd
import pytest

from titan_neuro.evaluation import format_interval, markdown_table
from titan_neuro.evaluation.summary import comparisons, summary


def scores_of(*intervals, n_subjects=6, model="titan-mac"):
    """Rows of the study's model at lead times 1, 2, ... with these intervals of `skill_ar`."""
    low, high = np.transpose(intervals)
    return pd.DataFrame(
        {
            "model": model,
            "kind": "model",
            "lead_time_points": range(1, len(intervals) + 1),
            "n_subjects": n_subjects,
            "skill_ar": (low + high) / 2,
            "skill_ar_low": low,
            "skill_ar_high": high,
        }
    )


def pair(*intervals, model="titan-mac", other="var"):
    table = scores_of(*intervals, model=model).assign(compared_with=other)
    return table.rename(columns=lambda name: name.replace("skill_ar", "difference"))


def test_a_win_at_every_lead_time():
    assert summary(scores_of((0.01, 0.05), (0.02, 0.08))) == (
        "titan-mac beats ar (linear autoregression) at every lead time. Its largest skill_ar, the error removed "
        "beyond linear autoregression (skill), is 0.050 [0.020, 0.080]. n = 6 subjects."
    )


def test_nothing_is_claimed_beyond_the_intervals():
    text = summary(scores_of((0.01, 0.05), (-0.01, 0.05), (0.0, 0.02), (-0.03, -0.01)))
    assert "titan-mac beats ar (linear autoregression) at a lead time of 1 time point." in text
    assert "It is not shown to differ from ar at lead times of 2 to 3 time points." in text
    assert "It is worse than ar at a lead time of 4 time points." in text


def test_no_difference_at_any_lead_time():
    text = summary(scores_of((-0.01, 0.05), (-0.02, 0.08)))
    assert text.startswith("titan-mac is not shown to differ from ar (linear autoregression) at any lead time.")


def test_scattered_lead_times_are_counted():
    text = summary(scores_of((0.01, 0.05), (-0.01, 0.05), (0.01, 0.02)))
    assert "beats ar (linear autoregression) at 2 of the 3 lead times." in text


def test_two_subjects_are_only_described():
    text = summary(scores_of((np.nan, np.nan), (np.nan, np.nan), n_subjects=2).assign(skill_ar=[0.1, 0.2]))
    assert "beats" not in text
    assert "is 0.200. No interval over subjects is possible with so few" in text


def test_few_subjects_come_with_a_caution():
    text = summary(scores_of((0.01, 0.05), n_subjects=3))
    assert text.startswith("titan-mac is on average above ar (linear autoregression) at a lead time of 1 time point.")
    assert text.endswith("the interval to cover 95 %, so this describes them and claims nothing.")


def test_four_people_beat_nobody_and_five_may():
    table = pair((0.01, 0.02), (-0.04, -0.03)).assign(difference=[0.015, -0.035])
    [few], [enough] = (comparisons(table.assign(n_subjects=n_subjects)) for n_subjects in (4, 5))
    assert "beats" not in few and "is worse than" not in few
    assert few.startswith("titan-mac is on average above var") and "It is on average below var" in few
    assert "beats" in enough and "is worse than" in enough


def test_a_sentence_holds_at_most_three_numbers():
    text = summary(scores_of((0.01, 0.05), (-0.01, 0.05), (0.0, 0.02), (-0.03, -0.01), n_subjects=3))
    for sentence in re.split(r"(?<=\.) ", text):
        assert len(re.findall(r"[0-9.]*[0-9]", sentence)) <= 3


def test_each_pair_has_its_sentences():
    table = pd.concat([pair((0.01, 0.02), (0.03, 0.04)), pair((-0.1, 0.1), (-0.1, -0.05), other="titan-mac-reset20")])
    beats_var, against_reset = comparisons(table)
    assert beats_var == "titan-mac beats var (vector autoregression) at every lead time."
    assert against_reset == (
        "titan-mac is worse than titan-mac-reset20 (memory reset every 20 time points) at a lead time of 2 time "
        "points. It is not shown to differ from titan-mac-reset20 at a lead time of 1 time point."
    )


def test_without_intervals_nothing_is_compared():
    [sentence] = comparisons(pair((np.nan, np.nan)))
    assert sentence.endswith("there is no interval over subjects.")
    assert comparisons(pd.DataFrame()) == []


def test_markdown_columns_are_aligned():
    assert markdown_table(["a", "bbb"], [["1", "2"], ["333", "4"]]).splitlines() == [
        "| a   | bbb |",
        "| --- | --- |",
        "| 1   | 2   |",
        "| 333 | 4   |",
    ]


def test_a_markdown_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        markdown_table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("values", "text"),
    [((0.03, 0.01, 0.05), "0.030 [0.010, 0.050]"), ((0.03, np.nan, np.nan), "0.030"), ((np.nan,) * 3, "n/a")],
)
def test_intervals_are_written_in_brackets(values, text):
    row = dict(zip(("r2", "r2_low", "r2_high"), values, strict=True))
    assert format_interval(row, "r2") == text
