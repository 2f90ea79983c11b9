import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare import PrepareConfig
from titan_neuro.data.prepare.timing import read_events, repetition_time, scored_time_points
from titan_neuro.errors import MetadataError

DS003017 = Path(__file__).parents[4] / "shared/ds003017/ds003017-metadata.tar.gz"
DEFAULTS = PrepareConfig()


def recording(seconds):
    return Recording(
        **{"path": Path("sub-1_bold.nii.gz"), "kind": "volume", "route": "native", "entities": {"subject": "1"}},
        **{"repetition_time": seconds, "events": None, "mask": None},
    )


class TestRepetitionTime:
    @pytest.mark.parametrize(
        ("sidecar", "header", "expected"), [(0.8, None, 0.8), (None, 0.8, 0.8), (0.8, 0.8004, 0.8), (2, 2.0, 2.0)]
    )
    def test_the_sidecar_goes_before_the_header(self, sidecar, header, expected):
        assert repetition_time(recording(sidecar), header) == expected

    @pytest.mark.parametrize(
        ("sidecar", "header", "message"),
        [
            (None, None, "neither RepetitionTime in its JSON sidecar nor a time step"),
            (0.0, None, "above 0 s, found 0.0"),
            (0.0, 1.0, "above 0 s, found 0.0"),
            (-1.0, None, "above 0 s, found -1.0"),
            (None, -2.0, "above 0 s, found -2.0"),
            (math.nan, None, "found nan"),
            (math.inf, None, "found inf"),
            (1.0, 1.002, "sidecar gives a repetition time of 1.0 s, the header 1.002 s"),
            (1.0, math.nan, "the header nan s"),
        ],
    )
    def test_missing_or_contradictory_repetition_time_is_refused(self, sidecar, header, message):
        with pytest.raises(MetadataError, match=message):
            repetition_time(recording(sidecar), header)


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
        cue, movie, *rest = read_events(path, 20.0)
        assert cue == (-2.5, 1.0, "cue")
        assert movie[0] == 10.0
        assert math.isnan(movie[1])
        # Only n/a is missing: "None" may be a condition.
        assert rest == [(3.0, 0.0, ""), (4.0, 1.5, "None")]

    def test_trial_types_are_read_as_text(self, table):
        assert [name for *_, name in read_events(table(("0", "1", "01"), ("1", "1", "n/a")), 9.0)] == ["01", ""]

    def test_without_types(self, table):
        assert read_events(table(("1", "2"), header="onset\tduration"), 9.0) == [(1.0, 2.0, "")]

    def test_an_empty_table_has_no_events(self, table):
        assert read_events(table(), 9.0) == []

    def test_clocks_may_differ_by_a_second(self, table):
        assert read_events(table(("5", "5", "movie")), 9.0) == [(5.0, 5.0, "movie")]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (("5", "5.01", "movie"), r"line 3: the event 'movie' ends at 10.01 s, but the run ends at 9 s"),
            (("11", "n/a", "movie"), r"line 3: the event 'movie' ends at 11 s"),
            (("n/a", "1", "movie"), "line 3: expected an onset in seconds and a duration from 0 s on, found nan"),
            (("1", "-1", "movie"), r"line 3: .* found 1.0 and -1.0"),
            (("1", "inf", "movie"), "line 3: the event 'movie' ends at inf s"),
            (("one", "1", "movie"), "not a readable events table: .*one"),
            (("1", "", "movie"), "not a readable events table"),
            (("1", "1", "movie", "more"), "not a readable events table"),
        ],
    )
    def test_rows_that_can_not_be(self, table, row, message):
        with pytest.raises(MetadataError, match=message) as caught:
            read_events(table(("0", "1", "cue"), row), 9.0)
        assert "sub-1_task-x_events.tsv" in caught.value.message

    @pytest.mark.parametrize("header", ["onset\ttrial_type", "start\tduration", "onset,duration"])
    def test_lacking_columns(self, table, header):
        with pytest.raises(MetadataError, match=r"expected the columns onset, duration\[, trial_type\], found"):
            read_events(table(header=header), 9.0)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00onset"])
    def test_no_table(self, tmp_path, content):
        path = tmp_path / "events.tsv"
        path.write_bytes(content)
        with pytest.raises(MetadataError, match="not a readable events table"):
            read_events(path, 9.0)


class TestScoredFrames:
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
        events = read_events(path, n_time_points * 1.0)
        scored, rule = scored_time_points(events, n_time_points, 1.0, DEFAULTS.warmup_s, DEFAULTS.scored_trial_types)
        assert np.flatnonzero(scored).tolist() == list(range(max(20, stimulus[0]), stimulus[1]))
        assert scored.sum() == expected
        assert rule == "time points inside events of type movie, after the warm-up"
        for onset, duration, name in events:
            if name == "overlap_with_previous_run":
                assert not scored[int(onset) : int(onset + duration)].any()
    with pytest.raises(MetadataError, match="the run ends at"):
        read_events(tables[0], n_time_points - 13.0)
