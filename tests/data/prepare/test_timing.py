import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from titan_neuro.data.bids.recordings import Recording, find_recordings
from titan_neuro.data.prepare import PrepareConfig
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.timing import (
    events_within,
    read_event_columns,
    read_events,
    repetition_time,
    scored_time_points,
)
from titan_neuro.errors import MetadataError

DS003017 = Path(__file__).parents[4] / "shared/ds003017/ds003017-metadata.tar.gz"
DEFAULTS = PrepareConfig()


def recording(sidecar, route="native"):
    """A recording with a sidecar, or with nothing but a repetition time in it."""
    content = sidecar if isinstance(sidecar, dict) else {} if sidecar is None else {"RepetitionTime": sidecar}
    return Recording(
        **{"path": Path("sub-1_bold.nii.gz"), "kind": "volume", "route": route, "entities": {"subject": "1"}},
        **{"sidecar": content, "events": None, "mask": None},
    )


class TestRepetitionTime:
    @pytest.mark.parametrize(
        ("sidecar", "header", "expected"),
        [
            *((0.8, None, 0.8), (None, 0.8, 0.8), (0.8, 0.8004, 0.8), (2, 2.0, 2.0)),
            *(({"SamplingFrequency": 1.25}, None, 0.8), ({"SamplingFrequency": "TR"}, 0.8, 0.8)),
            ({"RepetitionTime": 2.0, "SamplingFrequency": 16.0}, None, 2.0),
        ],
    )
    def test_the_sidecar_goes_before_the_header(self, sidecar, header, expected):
        assert repetition_time(recording(sidecar), header, 5) == expected

    @pytest.mark.parametrize(
        ("sidecar", "header", "message"),
        [
            (None, None, "neither RepetitionTime in its JSON sidecar nor a time step"),
            (1.0, 1.002, "sidecar gives a repetition time of 1.0 s, the header 1.002 s"),
            (1.0, math.nan, "the header nan s"),
            (1.5, 1500.0, "the header 1500.0 s"),
        ],
    )
    def test_missing_or_contradictory_repetition_time_is_refused(self, sidecar, header, message):
        with pytest.raises(MetadataError, match=message):
            repetition_time(recording(sidecar), header, 5)

    @pytest.mark.parametrize(
        "value",
        [True, False, "2.0", "", [2.0], {}, 0, 0.0, -0.0, -2.0, math.nan, math.inf, 1e308, 10**400, 2000, 101, 0.002],
    )
    @pytest.mark.parametrize("header", [None, 1.0])
    @pytest.mark.parametrize("key", ["RepetitionTime", "SamplingFrequency"])
    def test_what_is_no_repetition_time_is_refused(self, value, header, key):
        """Whatever the header says, and also where the value is a frequency."""
        if key == "SamplingFrequency" and (isinstance(value, str) or value == 101):
            return
        with pytest.raises(MetadataError, match=rf"from 0.01 to 100 s, found .* \(.*{key}\)"):
            repetition_time(recording({key: value}), header, 5)

    @pytest.mark.parametrize("header", [-2.0, math.inf, 1500.0, 0.0015])
    def test_a_header_alone_must_be_plausible(self, header):
        with pytest.raises(MetadataError, match="the header"):
            repetition_time(recording(None), header, 5)

    @pytest.mark.parametrize("header", [1.0, 1500.0, math.nan, -1.0])
    def test_the_sidecar_of_a_derivative_holds(self, header, caplog):
        assert repetition_time(recording(1.5, "preprocessed"), header, 5) == 1.5
        assert "of a preprocessed image the sidecar holds" in caplog.text

    @pytest.mark.parametrize("route", ["native", "preprocessed", "transforms"])
    def test_a_setting_says_which_is_right(self, route, caplog):
        one = recording(1.5, route)
        assert repetition_time(one, 2.0, 5, "sidecar") == 1.5
        assert repetition_time(one, 2.0, 5, "header") == 2.0
        assert repetition_time(one, 1.5, 5, "header") == 1.5
        assert repetition_time(one, None, 5, "header") == 1.5
        assert repetition_time(recording(None, route), 2.0, 5, "sidecar") == 2.0
        assert not caplog.records
        with pytest.raises(MetadataError, match="found nan"):
            repetition_time(one, math.nan, 5, "header")


class TestVolumeTiming:
    @pytest.mark.parametrize("step", [2.0, 0.72, 1 / 3])
    def test_equal_steps_are_a_repetition_time(self, step):
        times = [round(volume * step, 3) for volume in range(400)]
        found = repetition_time(recording({"VolumeTiming": times}), None, 400)
        assert found == pytest.approx(step, abs=3e-6)
        with_both = recording({"VolumeTiming": times, "RepetitionTime": round(step, 3)})
        assert repetition_time(with_both, step, 400) == found

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"VolumeTiming": [0, 3, 6, 14, 17]}, "found 3 s and, after volume 2, 8 s"),
            ({"VolumeTiming": [0, 3, 6, 14, 17], "RepetitionTime": 3.0}, "found 3 s and, after volume 2, 8 s"),
            ({"VolumeTiming": [0, 2, 4, 6]}, "expected 5 times in VolumeTiming, one for each volume, found 4"),
            ({"VolumeTiming": [0, 2, 4, 6, 8], "RepetitionTime": 1.0}, "RepetitionTime of 1.0 s, and a VolumeTiming"),
            ({"VolumeTiming": [8, 10, 12, 14, 16]}, "expected the first volume at 0 s, found it at 8 s"),
            ({"VolumeTiming": [8, 6, 4, 2, 0]}, "VolumeTiming"),
            ({"VolumeTiming": [0, 0, 0, 0, 0]}, r"found 0.0 \(VolumeTiming\)"),
            ({"VolumeTiming": [0, 2000, 4000, 6000, 8000]}, r"found 2000.0 \(VolumeTiming\)"),
            *(({"VolumeTiming": bad}, "expected the times of all volumes") for bad in (3.0, "0", [], {}, [0])),
            *(({"VolumeTiming": [0, 2, bad, 6, 8]}, "expected the times") for bad in ("4", None, math.nan, True)),
        ],
    )
    @pytest.mark.parametrize("header", [None, 2.0])
    def test_other_times_are_refused(self, content, message, header):
        """Above all, the header's time is not taken instead."""
        with pytest.raises(MetadataError, match=message):
            repetition_time(recording(content), header, 5)


@pytest.fixture
def table(tmp_path):
    def write(*rows, header="onset\tduration\ttrial_type"):
        path = tmp_path / "sub-1_task-x_events.tsv"
        path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
        return path

    return write


class TestEvents:
    def test_rows_are_read(self, table):
        path = table(("-2.5", "1", "cue"), ("10.0", "n/a", "movie"), ("3", "0", "n/a"), ("4", "1.5", "None"))
        cue, movie, *rest = read_events(path)
        assert cue == (-2.5, 1.0, "cue")
        assert movie[0] == 10.0
        assert math.isnan(movie[1])
        # Only n/a is missing: "None" may be a condition.
        assert rest == [(3.0, 0.0, ""), (4.0, 1.5, "None")]

    def test_trial_types_are_read_as_text(self, table):
        assert [name for *_, name in read_events(table(("0", "1", "01"), ("1", "1", "n/a")))] == ["01", ""]

    def test_quotation_marks_are_ordinary_characters(self, table):
        words = ['"Hello', "world", 'there"', '"', '""', "it's", '"a" b']
        path = table(*((str(at), "1", word) for at, word in enumerate(words)))
        assert read_events(path) == [(float(at), 1.0, word) for at, word in enumerate(words)]

    def test_without_types(self, table):
        assert read_events(table(("1", "2"), header="onset\tduration")) == [(1.0, 2.0, "")]

    def test_further_columns_belong_to_the_events_kept(self, table):
        rows = [("0", "5", "movie", "1", "n/a"), ("3", "1", "shot", "n/a", "n/a"), ("99", "1", "movie", "2", "n/a")]
        path = table(*rows, header="onset\tduration\ttrial_type\tscene\tplace")
        events, _ = events_within(read_events(path), 9.0, path)
        assert read_event_columns(path, 9.0) == {"scene": ["1", ""]}
        assert len(events) == 2

    def test_an_empty_table_has_no_events(self, table):
        assert read_events(table()) == []

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (("n/a", "1", "movie"), "line 3: expected an onset in seconds and a duration from 0 s on, found nan"),
            (("1", "-1", "movie"), r"line 3: .* found 1.0 and -1.0"),
            (("1", "inf", "movie"), r"line 3: .* found 1.0 and inf"),
            (("inf", "1", "movie"), r"line 3: .* found inf and 1.0"),
            (("one", "1", "movie"), "line 3, column 'onset': expected a number or n/a, found 'one'"),
            (("1", "1_0", "movie"), "line 3, column 'duration': expected a number or n/a, found '1_0'"),
            (("1", "1", "movie", "more"), "line 3: expected 3 cells, found 4"),
            (("1", "1"), "line 3: expected 3 cells, found 2"),
        ],
    )
    def test_rows_that_can_not_be(self, table, row, message):
        with pytest.raises(MetadataError, match=message) as caught:
            read_events(table(("0", "1", "cue"), row))
        assert "sub-1_task-x_events.tsv" in caught.value.message

    @pytest.mark.parametrize("header", ["onset\ttrial_type", "start\tduration", "onset,duration"])
    def test_lacking_columns(self, table, header):
        with pytest.raises(MetadataError, match="expected the columns onset, duration, found"):
            read_events(table(header=header))


class TestEventsOfARun:
    """A run of 9 s; the table may be of a longer stimulus."""

    PATH = Path("events.tsv")

    def within(self, *events):
        found, note = events_within(events, 9.0, self.PATH)
        return found, note

    @pytest.mark.parametrize(
        "events",
        [
            [],
            # Clocks may differ by a second.
            [(5.0, 5.0, "movie")],
            [(9.0, 0.0, "credits"), (10.0, 0.0, "end")],
            [(9.5, math.nan, "end")],
            [(-3.0, 1.0, "cue"), (-1.0, 4.0, "movie"), (0.0, 0.0, "start")],
        ],
    )
    def test_events_inside_stay_as_they_are(self, events):
        found, note = self.within(*events)
        np.testing.assert_equal(found, events)
        assert note is None

    @pytest.mark.parametrize(
        ("event", "clipped"),
        [
            ((5.0, 6.0, "movie"), (5.0, 4.0, "movie")),
            ((-2.0, 30.0, "movie"), (-2.0, 11.0, "movie")),
            # It begins within the tolerance.
            ((9.5, 3.0, "movie"), (9.5, 0.0, "movie")),
        ],
    )
    def test_events_that_end_later_are_clipped(self, event, clipped):
        found, note = self.within((0.0, 3.0, "cue"), event)
        assert found == [(0.0, 3.0, "cue"), clipped]
        assert "of 2 events, 1 ended after the last volume (9 s) and were clipped, and 0 began after it" in note

    @pytest.mark.parametrize("event", [(10.5, 1.0, "movie"), (11.0, 0.0, "button"), (20.0, math.nan, "movie")])
    def test_events_that_begin_later_are_left_out(self, event):
        found, note = self.within((0.0, 3.0, "cue"), event, (1.0, math.nan, "cue"))
        np.testing.assert_equal(found, [(0.0, 3.0, "cue"), (1.0, math.nan, "cue")])
        assert "0 ended after the last volume (9 s) and were clipped, and 1 began after it and were left out" in note

    @pytest.mark.parametrize(
        "events",
        [
            # Of another run; in milliseconds, the first at 0.
            [(10.5, 3.0, "movie"), (20.0, 3.0, "movie")],
            [(12.0, math.nan, "movie")],
            [(0.0, 2000.0, "fixation"), (2000.0, 6000.0, "movie")],
        ],
    )
    def test_a_table_of_another_run_or_unit_is_refused(self, events):
        with pytest.raises(
            MetadataError, match=r"events.tsv: expected events of a run of 9 s, found an event"
        ) as caught:
            self.within(*events)
        assert "in seconds" in caught.value.hint


class TestScored:
    def test_event_includes_onset_and_excludes_end(self):
        scored, rule = scored_time_points([(3.0, 2.0, "movie"), (7.5, 1.0, "movie")], 12, 1.0, 0.0, ["movie"])
        assert np.flatnonzero(scored).tolist() == [3, 4, 8]
        assert rule == "time points inside events of type movie, after the warm-up"

    @pytest.mark.parametrize("tr", [0.72, 0.8, 1.1, 2.0, 2.4])
    def test_rounding_shifts_no_time_point(self, tr):
        """10 * 0.72 is 7.199999999999999."""
        for volume in range(1, 200):
            scored, _ = scored_time_points([(round(volume * tr, 6), round(tr, 6), "movie")], 300, tr, 0.0, ["movie"])
            assert np.flatnonzero(scored).tolist() == [volume]

    def test_overlapping_events_are_one_set_of_time_points(self):
        rng = np.random.default_rng(0)
        events = [(rng.uniform(-20, 120), rng.exponential(5), "movie") for _ in range(30)] + [(5.0, 0.0, "movie")]
        time = np.arange(100) * 1.0
        expected = np.zeros(100, bool)
        for onset, duration, _ in events:
            expected |= (time >= onset) & (time < onset + duration)
        assert 20 < expected.sum() < 100
        assert np.array_equal(scored_time_points(events, 100, 1.0, 0.0, ["movie"])[0], expected)

    def test_the_warm_up_holds_its_first_second(self):
        scored, rule = scored_time_points([], 50, 0.72, 7.2, ["movie"])
        assert np.flatnonzero(scored).tolist() == list(range(10, 50))
        assert rule == "all time points after the warm-up (no events)"

    def test_without_the_type_that_is_wanted(self):
        scored, rule = scored_time_points([(0.0, 5.0, "rest")], 10, 1.0, 4.0, ["movie", "story"])
        assert np.flatnonzero(scored).tolist() == [4, 5, 6, 7, 8, 9]
        assert rule == "all time points after the warm-up (no event of type movie or story)"

    def test_unknown_duration_scores_nothing_and_is_recorded(self):
        events = [(0.0, math.nan, "movie"), (6.0, 2.0, "movie")]
        scored, rule = scored_time_points(events, 10, 1.0, 0.0, ["movie"])
        assert np.flatnonzero(scored).tolist() == [6, 7]
        assert rule.endswith("without 1 events of unknown duration")


@pytest.fixture(scope="module")
def ds003017(tmp_path_factory):
    """The real events of the five runs of all 25 subjects."""
    if not DS003017.is_file():
        pytest.skip(f"the metadata of ds003017 are not at {DS003017}")
    root = tmp_path_factory.mktemp("ds003017")
    with tarfile.open(DS003017) as archive:
        archive.extractall(root, [m for m in archive if m.name.endswith("_events.tsv")], filter="data")
    return root


def test_a_scan_that_was_stopped_early(sherlock):
    """Person 5 lacks the last 51 volumes of the second run; the table is that of all people."""
    [run] = find_recordings(sherlock, subjects=["05"], tasks=["sherlock"], runs=["2"])
    n_volumes = BoldImage(run.path).n_volumes
    table = read_events(run.events)
    events, note = events_within(table, n_volumes * 1.5, run.events)
    assert (n_volumes, len(table)) == (979, 541)
    assert "2 ended after the last volume (1468.5 s) and were clipped, and 30 began after it and were left out" in note
    assert events[:500] == table[:500]
    assert max(onset + duration for onset, duration, _ in events) == 1468.5
    whole, _ = scored_time_points(table, 1030, 1.5, 20.0, ["movie"])
    scored, _ = scored_time_points(events, 979, 1.5, 20.0, ["movie"])
    assert np.array_equal(scored, whole[:979])


# Run by run: volumes (of 1 s); stimulus that is new, from its onset to its end; volumes of it after 20 s of warm-up.
RUNS = {
    1: (598, (10, 587), 567),
    2: (498, (20, 487), 467),
    3: (535, (30, 525), 495),
    4: (618, (22, 608), 586),
    5: (803, (21, 793), 772),
}


@pytest.mark.parametrize(
    ("run", "n_time_points", "stimulus", "expected"), [(run, *metadata) for run, metadata in RUNS.items()]
)
def test_budapest_movie_is_scored_without_fixation_and_overlap(ds003017, run, n_time_points, stimulus, expected):
    tables = sorted(ds003017.rglob(f"*_run-{run:02d}_events.tsv"))
    assert len(tables) == 25
    for path in tables:
        events, note = events_within(read_events(path), n_time_points * 1.0, path)
        assert note is None
        scored, rule = scored_time_points(events, n_time_points, 1.0, DEFAULTS.warmup_s, DEFAULTS.scored_trial_types)
        assert np.flatnonzero(scored).tolist() == list(range(max(20, stimulus[0]), stimulus[1]))
        assert scored.sum() == expected
        assert rule == "time points inside events of type movie, after the warm-up"
        for onset, duration, name in events:
            if name == "overlap_with_previous_run":
                assert not scored[int(onset) : int(onset + duration)].any()
    stopped, note = events_within(read_events(tables[0]), 100.0, tables[0])
    assert max(onset + duration for onset, duration, _ in stopped) == 100
    assert "ended after the last volume (100 s) and were clipped" in note
