"""Preparing a clone gets the files that are missing; a file that is nowhere stops no other run."""

import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.store import open_runs
from titan_neuro.errors import FetchError, NotFetchedError


@pytest.mark.slow
def test_a_file_that_is_nowhere_stops_no_other_run(tmp_path, copy_synthetic, run, capsys):
    source, clone, output = tmp_path / "synthetic", tmp_path / "clone", tmp_path / "out"
    images = sorted(copy_synthetic(source, n_subjects=2, n_runs=2).glob("sub-*/func/*_bold.nii.gz"))
    run(source, "git", "annex", "drop", "--force", "--quiet", str(images[1]))
    run(tmp_path, "git", "clone", "--quiet", str(source), str(clone))
    assert main(["prepare", str(clone), str(output)]) == NotFetchedError.exit_code
    text = capsys.readouterr().err
    assert "1 of 4 runs can't be prepared; the other 3 are prepared." in text
    assert len(open_runs(output)) == 3
    for image in (images[0], *images[2:]):
        run(source, "git", "annex", "drop", "--force", "--quiet", str(image))
    again = tmp_path / "again"
    run(tmp_path, "git", "clone", "--quiet", str(source), str(again))
    assert main(["prepare", str(again), str(tmp_path / "none")]) == FetchError.exit_code
    assert all(is_missing(again / image.relative_to(source)) for image in images)
