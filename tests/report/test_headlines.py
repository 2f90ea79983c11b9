import dataclasses

import numpy as np
import pandas as pd
import pytest

from titan_neuro.probing.tools.results import SCORES
from titan_neuro.report.answers import Conclusion, answers
from titan_neuro.report.headlines import (
    best_baseline,
    not_shown_sentence,
    parts_sentence,
    result_sentence,
    terminal_lines,
)
from titan_neuro.report.records import ProbeResult
from titan_neuro.report.results import read_results


def answer_of(results, name):
    return next(answer for answer in answers(results) if answer.name == name)


def with_probe(results, name, *rows, **metadata):
    """The results with one probe, whose rows are measure, condition, x, value and p."""
    table = pd.DataFrame(rows, columns=["measure", "condition", "x", "value", "p"]).reindex(columns=list(SCORES))
    table["is_control"] = False
    probe = ProbeResult(name=name, question="", summary="", metadata=metadata, scores=table, maps=())
    return dataclasses.replace(results, probes=(probe,))


def test_the_terminal_gets_a_dozen_lines(shared_results):
    lines = terminal_lines(shared_results)
    assert len(lines) <= 12
    assert "task movie are forecast in 6 subjects (12 test runs; held-out subjects" in lines[0]
    assert lines[1].startswith("Skill 1 time point (1.5 s) ahead: titan-mac 0.0")
    assert "; best baseline (ar) 0.000" in lines[1]
    assert lines[3].startswith("Averaged over lead times and subjects, the memory")


def test_the_best_baseline_is_best_over_lead_times(shared_results):
    scores = shared_results.scores.copy()
    scores.loc[scores["model"] == "persistence", "skill_ar"] = [0.5, -0.3, -0.3, -0.1]
    scores.loc[scores["model"] == "mean", "skill_ar"] = 0.01
    assert best_baseline(scores).name == "mean"
    assert best_baseline(scores[scores["kind"] == "model"]) is None


def test_negative_skill_is_more_error(shared_results):
    scores = shared_results.scores.assign(skill_ar=-0.02, skill_ar_low=-0.03)
    text = result_sentence(dataclasses.replace(shared_results, scores=scores))
    assert "have 2.0 % more squared error 1.5 s ahead" in text
    assert "may be chance where an interval includes 0" in text


def test_a_memory_that_adds_nothing_is_said(shared_results):
    assert "does not show that the memory" not in not_shown_sentence(shared_results)
    useless = shared_results.ablations.assign(effect="adds nothing", mean_difference=-0.0003)
    text = not_shown_sentence(dataclasses.replace(shared_results, ablations=useless))
    assert text.startswith("It does not show that the memory that learns at test time helps: without it")


def test_a_part_that_is_two_rows_counts_once(shared_results):
    """Where memory and backbone are one part, two equal numbers would read as a sum."""
    assert "one part" not in parts_sentence(shared_results)
    scores = shared_results.scores
    rows = scores[scores["model"] == "titan-mac"].assign(kind="control", skill_ar=0.01)
    frozen, zeroed = (rows.assign(model=f"titan-mac-{name}") for name in ("frozen", "backbone-zeroed"))
    both = dataclasses.replace(shared_results, scores=pd.concat([scores, frozen, zeroed]))
    assert parts_sentence(both).endswith("Here the memory is all that the backbone adds: one part, not two.")
    assert any("one part, not two" in line for line in terminal_lines(both))
    differ = pd.concat([scores, frozen, zeroed.assign(skill_ar=0.02)])
    assert "one part" not in parts_sentence(dataclasses.replace(shared_results, scores=differ))


@pytest.mark.parametrize("n_subjects", [2, 4])
def test_few_people_support_no_claim(output_folder, n_subjects):
    subjects = tuple(f"0{number}" for number in range(n_subjects))
    results = read_results(output_folder(subjects=subjects).scores().root)
    assert "they support no claim" in not_shown_sentence(results)
    assert any("they support no claim" in line for line in terminal_lines(results))


def test_without_scores_it_says_so(output_folder):
    results = read_results(output_folder().root)
    assert result_sentence(results).startswith("No result yet")
    assert [answer.conclusion for answer in answers(results)] == [Conclusion.NOT_ASKED] * 6


def test_history_answers_by_its_shortest_context(shared_results):
    answer = answer_of(shared_results, "history-swap")
    assert (answer.conclusion, answer.reason) == (
        Conclusion.YES,
        "skill falls by 0.042 without what lies 8 s back, p < 0.0001.",
    )


def test_a_longer_past_needs_intervals_apart(shared_results):
    assert answer_of(shared_results, "context-length").conclusion is Conclusion.YES
    curve = shared_results.curve.assign(skill_ar_low=-1.0)
    assert answer_of(dataclasses.replace(shared_results, curve=curve), "context-length").conclusion is Conclusion.NO


def test_a_probe_must_exceed_its_controls(shared_results):
    rows = [("reinstatement", "memory output", np.nan, 0.12, 0.0001)]
    rows += [("difference in reinstatement", "memory output less current activity pattern", np.nan, -0.05, 0.9)]
    answer = answer_of(with_probe(shared_results, "recall", *rows), "recall")
    assert answer.conclusion is Conclusion.AS_CONTROL
    assert answer.reason.endswith("but 0.050 less than with the current activity pattern (p = 0.900).")
    rows[1] = (*rows[1][:3], 0.05, 0.01)
    assert answer_of(with_probe(shared_results, "recall", *rows), "recall").conclusion is Conclusion.YES


def test_surprise_answers_by_its_corrected_p(shared_results):
    rows = [("surprise of the forecast memory", "annotated events, circular shifts", 2, 0.4, 0.01)]
    corrected = {"annotated events: surprise of the forecast memory": 0.06}
    found = with_probe(shared_results, "surprise", *rows, PCorrected=corrected)
    assert answer_of(found, "surprise").conclusion is Conclusion.NO
    assert answer_of(with_probe(shared_results, "surprise", *rows), "surprise").conclusion is Conclusion.YES


def test_annotated_events_answer_before_those_found_in_brains(shared_results):
    found = ("surprise of the forecast memory", "events in other subjects' brains, circular shifts", 2, 0.1, 0.9)
    named = ("surprise of the forecast memory", "annotated events, circular shifts", 2, 0.4, 0.01)
    answer = answer_of(with_probe(shared_results, "surprise", found, named), "surprise")
    assert answer.conclusion is Conclusion.YES and "0.4 standard deviations" in answer.reason.replace("0.40", "0.4")
    assert "annotated events" in answer.reason
    assert "other subjects' brains" in answer_of(with_probe(shared_results, "surprise", found), "surprise").reason


def test_time_segments_answer_by_the_weights(shared_results):
    rows = [
        ("accuracy", "memory output", 1, 1.0, 0.5),
        ("accuracy, one time point in 8", "memory weights", 1, 0.7, 0.01),
    ]
    answer = answer_of(with_probe(shared_results, "time-segment-matching", *rows), "time-segment-matching")
    assert (answer.conclusion, answer.reason) == (Conclusion.YES, "right in 70% of cases, p = 0.010.")


def test_the_best_of_many_annotations_pays_for_them(shared_results):
    rows = [
        (f"{name}: r", "memory output", 0, 0.3, p) for name, p in (("speech", 0.02), ("music", 0.5), ("faces", 0.4))
    ]
    assert answer_of(with_probe(shared_results, "decoding", *rows), "decoding").conclusion is Conclusion.NO
    rows[0] = (*rows[0][:4], 0.001)
    answer = answer_of(with_probe(shared_results, "decoding", *rows), "decoding")
    assert (answer.conclusion, answer.reason) == (
        Conclusion.YES,
        "speech: r 0.300 (the best of 3 annotations), p = 0.0030.",
    )


def test_what_was_not_tested_says_why(shared_results):
    found = with_probe(shared_results, "decoding", NotTested=["there are no labels."])
    answer = answer_of(found, "decoding")
    assert (answer.conclusion, answer.reason) == (Conclusion.NOT_ASKED, "there are no labels.")
