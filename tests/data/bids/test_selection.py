"""Which recordings are taken, left out and refused: labels, filters, phase images, echoes, .bidsignore."""

from __future__ import annotations

import json

import pytest

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import ConfigError, MetadataError, NoMatchError

FUNC = "sub-01/func/sub-01_task-movie"
STANDARD = "space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"


def keys(recordings):
    return [recording.key for recording in recordings]


# ---- labels ----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path, write_dataset):
    """Subject 01 has two runs of the movie, 02 has one, 03 has rest alone."""
    names = ["sub-01_task-movie_run-01", "sub-01_task-movie_run-02", "sub-02_task-movie_run-01", "sub-03_task-rest"]
    return write_dataset(tmp_path / "bids", [f"{name[:6]}/func/{name}_bold.nii.gz" for name in names])


@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        ({"subjects": ["01", "04"]}, "subject 04"),
        ({"subjects": ["001", "02"]}, "subject 001"),
        ({"subjects": ["sub-01", "sub-1"]}, "subject sub-1"),
        ({"subjects": ["01", "03"], "tasks": ["movie"]}, "subject 03"),
        ({"tasks": ["movie", "Rest"]}, "task Rest"),
        ({"runs": ["1", "3"]}, "run 3"),
        ({"subjects": ["02"], "runs": ["1", "2"]}, "run 2"),
        ({"subjects": ["01", "08", "09"]}, "subject 08, subject 09"),
    ],
)
def test_each_label_must_match(dataset, labels, missing, caplog):
    with pytest.raises(NoMatchError, match=f"no run matches {missing}\\.") as caught:
        find_recordings(dataset, **labels)
    assert "subject: 01 02 03; task: movie rest; run: (none) 01 02" in caught.value.hint
    assert find_recordings(dataset, **labels, allow_missing=True)
    assert f"no run matches {missing}." in caplog.text


def test_nothing_at_all_is_never_allowed(dataset):
    with pytest.raises(NoMatchError, match="no run matches subject 09"):
        find_recordings(dataset, subjects=["09"], allow_missing=True)


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sub-a b_task-movie", "sub-a_b_task-movie", "sub-a.b_task-movie", "sub-a-b_task-movie", "sub-_task-movie",
             "sub-01_task-my movie", "sub-01_task-x_run-1_run-2", "sub-01_task-é", "sub-01_movie"]
)  # fmt: skip
def test_invalid_labels_are_refused_not_cut(dataset, name):
    (dataset / "sub-01/func" / f"{name}_bold.nii.gz").touch()
    with pytest.raises(MetadataError, match="is no valid recording"):
        find_recordings(dataset)
    assert keys(find_recordings(dataset, subjects=["02"])) == ["sub-02_task-movie_run-01"]
    (dataset / ".bidsignore").write_text(f"**/{name}_bold.nii.gz\n")
    assert len(find_recordings(dataset)) == 4


@pytest.mark.parametrize("label", ["A1", "01", "pre+post", "0"])
def test_letters_digits_and_plus_are_labels(tmp_path, write_dataset, label):
    root = write_dataset(tmp_path / "bids", [f"sub-{label}/func/sub-{label}_task-{label}_bold.nii.gz"])
    assert keys(find_recordings(root)) == [f"sub-{label}_task-{label}"]


# ---- filter files ----------------------------------------------------------------------------------


@pytest.fixture
def sessions(tmp_path, write_dataset):
    names = ["ses-1_task-movie", "ses-2_task-movie", "ses-02_task-movie", "ses-2_task-rest", "task-movie"]
    folders = [f"sub-01/{name.split('_')[0]}/func/sub-01_{name}" for name in names[:-1]]
    return write_dataset(tmp_path / "bids", [f"{name}_bold.nii.gz" for name in [*folders, FUNC]])


def filtered(root, content, **options):
    path = root.parent / "filter.json"
    path.write_text(json.dumps(content))
    return [key.removeprefix("sub-01_") for key in keys(find_recordings(root, filter_file=path, **options))]


@pytest.mark.parametrize(
    ("bold", "expected"),
    [
        ({"session": "2"}, ["ses-2_task-movie", "ses-2_task-rest"]),
        ({"ses": "ses-2", "task": "rest"}, ["ses-2_task-rest"]),
        ({"session": 2}, ["ses-02_task-movie", "ses-2_task-movie", "ses-2_task-rest"]),
        ({"session": ["1", "02"]}, ["ses-02_task-movie", "ses-1_task-movie"]),
        ({"session": None}, ["task-movie"]),
        ({"session": [None, "1"]}, ["ses-1_task-movie", "task-movie"]),
        ({"session": "*", "task": "rest"}, ["ses-2_task-rest"]),
        ({"session": "<Query.NONE: 1>"}, ["task-movie"]),
        ({"session": "<Query.ANY: 2>", "task": "rest"}, ["ses-2_task-rest"]),
        ({"session": "Query.REQUIRED", "task": "rest"}, ["ses-2_task-rest"]),
        ({"session": "<Query.OPTIONAL: 3>", "task": "rest"}, ["ses-2_task-rest"]),
        ({"session": "^0?2$", "task": "mov", "regex_search": True}, ["ses-02_task-movie", "ses-2_task-movie"]),
        ({"session": "*", "task": "^r", "regex_search": True}, ["ses-2_task-rest"]),
        ({"datatype": "func", "suffix": "bold", "extension": "nii.gz", "session": "1"}, ["ses-1_task-movie"]),
        ({"extension": [".nii", ".nii.gz"], "session": "1"}, ["ses-1_task-movie"]),
    ],
)
def test_filters_as_fmriprep_takes_them(sessions, bold, expected):
    others = {"t1w": {"datatype": "anat", "acquisition": None}, "fmap": {"session": "9"}, "sbref": {"suffix": "sbref"}}
    assert filtered(sessions, {**others, "bold": bold}) == expected


@pytest.mark.parametrize("content", [{}, {"t1w": {"session": "1"}}, {"bold": {}}])
def test_filters_without_a_condition_choose_all(sessions, content):
    assert len(filtered(sessions, content)) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bolt": {}}, "no part 'bolt'. Did you mean 'bold'"),
        ({"bold": []}, "expected .*found"),
        ({"bold": {"sesion": "1"}}, "no recording has an entity 'sesion'. Did you mean 'session'"),
        ({"bold": {"session": {}}}, "session|ses"),
        ({"bold": {"session": True}}, "expected a label"),
        ({"bold": {"session": []}}, "is empty"),
        ({"bold": {"session": "(", "regex_search": True}}, "no regular expression"),
        ({"bold": {"regex_search": "yes"}}, "expected true or false"),
    ],
)
def test_filters_that_are_none_are_refused(sessions, content, message):
    with pytest.raises(ConfigError, match=message):
        filtered(sessions, content)


def test_filters_nested_too_deeply_are_refused(sessions, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"bold": ' + '{"a": ' * 100_000 + "1" + "}" * 100_001)
    with pytest.raises(ConfigError, match="nested too deeply"):
        find_recordings(sessions, filter_file=path)


def test_each_label_of_a_filter_must_match(sessions, caplog):
    with pytest.raises(NoMatchError, match="no run matches session 7"):
        filtered(sessions, {"bold": {"session": ["1", "7"]}})
    assert filtered(sessions, {"bold": {"session": ["1", "7"]}}, allow_missing=True) == ["ses-1_task-movie"]


# ---- phase images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["phase", "real", "imag"])
@pytest.mark.parametrize("magnitude", ["_part-mag", ""])
def test_phase_images_are_left_out_and_named(tmp_path, write_dataset, part, magnitude, caplog):
    root = write_dataset(tmp_path / "bids", [f"{FUNC}{magnitude}_bold.nii.gz", f"{FUNC}_part-{part}_bold.nii.gz"])
    assert keys(find_recordings(root)) == [f"sub-01_task-movie{magnitude}"]
    assert "Phase images are left out" in caplog.text
    assert f"part-{part}_bold.nii.gz" in caplog.text


@pytest.mark.parametrize(
    ("sidecar", "is_taken"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "FMRI", "NONE", "PHASE"]}, False),
        ({"Units": "rad"}, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, True),
        ({"ImageType": "P"}, True),
        ({"Units": "arbitrary"}, True),
    ],
)
def test_sidecars_say_what_is_phase(tmp_path, write_dataset, sidecar, is_taken):
    root = write_dataset(tmp_path / "bids", [f"{FUNC}_run-1_bold.nii.gz"], sidecar=sidecar)
    write_dataset(root, [f"{FUNC}_run-2_bold.nii.gz"])
    assert len(find_recordings(root)) == 1 + is_taken


def test_phase_alone_is_no_recording(tmp_path, write_dataset):
    root = write_dataset(tmp_path / "bids", [f"{FUNC}_part-phase_bold.nii.gz"])
    with pytest.raises(NoMatchError, match="no run matches"):
        find_recordings(root)


@pytest.mark.parametrize("part", ["_part-mag", ""])
def test_magnitudes_find_derivatives_with_and_without_part(tmp_path, write_dataset, part):
    root = write_dataset(tmp_path / "bids", [f"{FUNC}_part-{each}_bold.nii.gz" for each in ("mag", "phase")])
    write_dataset(root / "derivatives/fmriprep", [f"{FUNC}{part}_{STANDARD}"], derivative=True)
    [recording] = find_recordings(root)
    assert (recording.key, recording.route) == ("sub-01_task-movie_part-mag", "preprocessed")


# ---- echoes ----------------------------------------------------------------------------------------

ECHOES = [f"{FUNC}_echo-{echo}_bold.nii.gz" for echo in (1, 2, 3)]


@pytest.fixture
def multi_echo(tmp_path, write_dataset):
    return write_dataset(tmp_path / "bids", ECHOES)


@pytest.mark.parametrize("n_echoes", [2, 3, 5])
def test_echoes_are_not_runs(tmp_path, write_dataset, n_echoes):
    names = [f"{FUNC}_run-{run}_echo-{echo + 1}_bold.nii.gz" for run in (1, 2) for echo in range(n_echoes)]
    root = write_dataset(tmp_path / "bids", names)
    with pytest.raises(MetadataError, match=f"{n_echoes} echoes of one run are not {n_echoes} runs") as caught:
        find_recordings(root)
    assert "--derivatives" in caught.value.hint
    example = caught.value.hint.split("--bids-filter-file: ")[1].rstrip(".")
    assert len(filtered(root, json.loads(example))) == 2


def test_one_echo_is_a_run(tmp_path, write_dataset):
    root = write_dataset(tmp_path / "bids", ECHOES[:1])
    assert keys(find_recordings(root)) == ["sub-01_task-movie_echo-1"]


def test_combinations_of_echoes_are_used(multi_echo, write_dataset):
    write_dataset(multi_echo / "derivatives/fmriprep", [f"{FUNC}_{STANDARD}"], derivative=True)
    [recording] = find_recordings(multi_echo)
    assert (recording.key, recording.route) == ("sub-01_task-movie", "preprocessed")
    with pytest.raises(MetadataError, match="is one of several echoes"):
        filtered(multi_echo, {"bold": {"echo": 2}})


def test_echoes_beside_their_combination_are_left_out(tmp_path, write_dataset):
    names = [f"{FUNC}_{STANDARD}", *(f"{FUNC}_echo-{echo}_desc-preproc_bold.nii.gz" for echo in (1, 2))]
    [recording] = find_recordings(write_dataset(tmp_path / "fmriprep", names, derivative=True))
    assert recording.path.name == names[0].rsplit("/", 1)[1]
    assert len(recording.notes) == 2 and all("echo" in note for note in recording.notes)


# ---- .bidsignore -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "n_runs"),
    [
        ("sub-01/\n", 2),
        ("*_run-02_bold.*\n", 3),
        ("# a comment\n\n**/sub-0[12]_*\n!**/sub-02_*\n", 2),
        ("extra_data/\n*.html\n", 4),
        ("sub-03/func/sub-03_task-rest_bold.nii.gz", 3),
    ],
)
def test_ignored_recordings_are_left_out_and_named(dataset, patterns, n_runs, caplog):
    (dataset / ".bidsignore").write_text(patterns)
    assert len(find_recordings(dataset)) == n_runs
    assert (".bidsignore hides" in caplog.text) == (n_runs < 4)


def test_ignore_files_of_derivatives_are_not_applied(tmp_path, write_dataset, caplog):
    """fMRIPrep's own names its transforms and tables of confounds."""
    names = [f"{FUNC}_{STANDARD}", f"{FUNC}_desc-confounds_timeseries.tsv"]
    root = write_dataset(tmp_path / "fmriprep", names, derivative=True)
    (root / ".bidsignore").write_text("*_timeseries.tsv\n*_xfm.*\n")
    assert find_recordings(root)[0].confounds is not None
    assert "bidsignore" not in caplog.text
    (root / ".bidsignore").write_text("sub-01/\n")
    assert find_recordings(root)
    assert "is not applied to a derivative dataset" in caplog.text
