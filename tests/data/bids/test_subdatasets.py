"""Subdatasets that are not installed, and sidecars that are not fetched: named, and got by `prepare`."""

from __future__ import annotations

import pytest

from titan_neuro.data.bids.annex import uninstalled_subdatasets
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.fetch import get_content
from titan_neuro.data.prepare import PrepareConfig
from titan_neuro.data.prepare.inputs import missing_files, require_content
from titan_neuro.errors import MetadataError, NoMatchError, NotFetchedError

RUN = "func/sub-{}_task-movie"
STANDARD = "_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
CONFIG = PrepareConfig()


@pytest.fixture
def git(run, tmp_path, monkeypatch):
    """Run git in a folder, with an identity, and with local sources allowed for subdatasets."""
    settings = {"user.name": "x", "user.email": "x@example.org", "protocol.file.allow": "always"}
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (key, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)

    def commit(root, submodules=None):
        run(root, "git", "init", "-q")
        for path, source in (submodules or {}).items():
            run(root, "git", "submodule", "--quiet", "add", str(source), path)
        run(root, "git", "add", "-A")
        run(root, "git", "commit", "-qm", "all")

    def clone(source, target):
        run(tmp_path, "git", "clone", "-q", str(source), str(target))
        return target

    return commit, clone


@pytest.fixture
def clone(git, tmp_path, write_dataset):
    """A clone of a raw dataset whose derivatives are a subdataset that is not installed."""
    commit, make_clone = git
    derivative = write_dataset(tmp_path / "fp", [f"sub-01/{RUN.format('01')}{STANDARD}"], derivative=True)
    commit(derivative)
    raw = write_dataset(tmp_path / "raw", [f"sub-01/{RUN.format('01')}_bold.nii.gz"])
    commit(raw, {"derivatives/fmriprep": derivative})
    return make_clone(raw, tmp_path / "clone")


def test_uninstalled_subdatasets_are_listed(clone, tmp_path):
    expected = [clone / "derivatives/fmriprep"]
    assert uninstalled_subdatasets(clone) == uninstalled_subdatasets(expected[0].parent) == expected
    assert uninstalled_subdatasets(expected[0]) == expected
    assert uninstalled_subdatasets(clone / "sub-01") == uninstalled_subdatasets(tmp_path / "raw") == []
    assert uninstalled_subdatasets(tmp_path) == []
    expected[0].rmdir()
    assert uninstalled_subdatasets(clone) == expected


@pytest.mark.parametrize("path", ["../outside", "/outside", "derivatives/../../outside", "a\\..\\b"])
def test_subdatasets_outside_are_refused(tmp_path, path):
    (tmp_path / "clone/.git").mkdir(parents=True)
    (tmp_path / "clone/.gitmodules").write_text(f'[submodule "x"]\n\tpath = {path}\n\turl = ./x\n')
    with pytest.raises(MetadataError, match="leads out of it") as caught:
        uninstalled_subdatasets(tmp_path / "clone")
    assert ".gitmodules" in caught.value.hint


def test_a_subdataset_that_is_a_link_elsewhere_is_read_and_not_installed(tmp_path):
    (tmp_path / "clone/.git").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clone/x").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "clone/.gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ./x\n')
    assert uninstalled_subdatasets(tmp_path / "clone") == []


@pytest.mark.parametrize("named", [None, "derivatives", "derivatives/fmriprep"])
def test_derivatives_that_are_not_installed_are_missing(clone, named):
    [recording] = find_recordings(clone, derivatives=[clone / named] if named else [])
    assert recording.route == "native"
    assert list(missing_files(recording, CONFIG).values()) == [clone / "derivatives/fmriprep"]
    with pytest.raises(NotFetchedError, match="is a subdataset that is not installed") as caught:
        require_content(recording, CONFIG)
    assert "datalad get -n" in caught.value.hint
    # A rough registration is asked for where nothing else is wanted.
    assert not missing_files(recording, PrepareConfig(rough_registration=True))


def test_subdatasets_of_subdatasets_are_listed(git, tmp_path, write_dataset, run):
    """Subjects of a derivative may be subdatasets of it; its sources are none of its data."""
    commit, make_clone = git
    sources = {}
    for name in ("sub-01", "sourcedata/raw", "code/scripts"):
        source = tmp_path / "sources" / name
        source.mkdir(parents=True)
        (source / "README").touch()
        commit(source)
        sources[name] = source
    derivative = write_dataset(tmp_path / "fp", [], derivative=True)
    commit(derivative, sources)
    raw = write_dataset(tmp_path / "raw", [f"sub-01/{RUN.format('01')}_bold.nii.gz"])
    commit(raw, {"derivatives/fmriprep": derivative})
    clone = make_clone(raw, tmp_path / "clone")
    run(clone, "git", "submodule", "--quiet", "update", "--init")
    assert find_recordings(clone)[0].uninstalled == (clone / "derivatives/fmriprep/sub-01",)
    assert uninstalled_subdatasets(clone / "derivatives/fmriprep") == [clone / "derivatives/fmriprep/sub-01"]


def test_subdatasets_are_installed(clone):
    [recording] = find_recordings(clone)
    assert get_content(list(missing_files(recording, CONFIG).values())) == 1
    [recording] = find_recordings(clone)
    assert recording.route == "preprocessed"
    assert not missing_files(recording, CONFIG)


def test_derivatives_of_other_runs_do_not_hide_it(clone, write_dataset):
    write_dataset(clone / "derivatives/other", [f"sub-02/{RUN.format('02')}{STANDARD}"], derivative=True)
    assert find_recordings(clone)[0].uninstalled
    write_dataset(clone / "derivatives/other", [f"sub-01/{RUN.format('01')}{STANDARD}"], derivative=True)
    assert not find_recordings(clone)[0].uninstalled


@pytest.fixture
def superdataset(git, tmp_path, write_dataset):
    """A clone in which subject 02 is a subdataset that is not installed."""
    commit, make_clone = git
    subject = tmp_path / "subject/func/sub-02_task-movie_bold.nii.gz"
    subject.parent.mkdir(parents=True)
    subject.touch()
    commit(tmp_path / "subject")
    raw = write_dataset(tmp_path / "raw", [f"sub-01/{RUN.format('01')}_bold.nii.gz"])
    commit(raw, {"sub-02": tmp_path / "subject"})
    return make_clone(raw, tmp_path / "clone")


def test_subjects_that_are_not_installed_are_named(superdataset, caplog):
    with pytest.raises(NotFetchedError, match="sub-02: is a subdataset that is not installed"):
        find_recordings(superdataset, subjects=["01", "02"])
    with pytest.raises(NoMatchError, match="subject 03"):
        find_recordings(superdataset, subjects=["01", "03"])
    assert "not installed" not in caplog.text
    assert len(find_recordings(superdataset)) == 1
    assert "1 subdatasets are not installed, and left out: sub-02" in caplog.text
    (superdataset / f"sub-01/{RUN.format('01')}_bold.nii.gz").unlink()
    with pytest.raises(NotFetchedError, match="sub-02 and perhaps others"):
        find_recordings(superdataset)


# ---- sidecars --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["task-movie_bold.json", f"sub-01/{RUN.format('01')}_bold.json"])
@pytest.mark.parametrize("kind", ["link", "pointer"])
def test_sidecars_that_are_not_fetched_are_missing(tmp_path, write_dataset, name, kind):
    root = write_dataset(tmp_path / "bids", [f"sub-{s}/{RUN.format(s)}_bold.nii.gz" for s in ("01", "02")])
    key = "annex/objects/aa/bb/MD5E-s5--0.json/MD5E-s5--0.json"
    (root / name).unlink(missing_ok=True)
    if kind == "link":
        (root / name).symlink_to(root / ".git" / key)
    else:
        (root / name).write_text(f"/{key}\n")
    first, second = find_recordings(root)
    assert first.missing_sidecars == (root / name,)
    assert (second.missing_sidecars == ()) == name.startswith("sub-01")
    with pytest.raises(NotFetchedError, match="sidecar") as caught:
        require_content(first, CONFIG)
    assert "titan-neuro fetch" in caught.value.hint
