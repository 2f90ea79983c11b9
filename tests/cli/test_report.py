import shutil

import pytest


@pytest.fixture
def two(tiny, tmp_path):
    """The same study in two folders."""
    return [shutil.copytree(tiny / "out", tmp_path / name) for name in ("one", "two")]


def test_two_studies_make_a_page(two, titan_neuro):
    done = titan_neuro("report", *two)
    page = two[0] / "compared-with-two.html"
    assert done.stdout.endswith(f"Report: {page}\n")
    assert "The recordings are of" not in done.stdout
    assert "all recorded settings are the same" in page.read_text().lower()
    assert not list(two[1].glob("compared*"))


def test_a_study_is_not_compared_with_itself(two, titan_neuro):
    done = titan_neuro("report", two[0], two[0], check=False)
    assert done.returncode == 2
    assert "expected two studies, found one folder twice" in done.stderr
    done = titan_neuro("report", two[0], two[1].parent / "none", check=False)
    assert done.returncode == 3
    assert "no such folder" in done.stderr


def test_a_person_has_a_page(two, titan_neuro):
    done = titan_neuro("report", two[0], "--participant-label", "sub-01", "02")
    pages = [two[0] / f"sub-{label}.html" for label in ("01", "02")]
    assert done.stdout == "".join(f"Report: {page}\n" for page in pages)
    assert "Head motion is not known" in pages[0].read_text()
    done = titan_neuro("report", *two, "--participant-label", "01", check=False)
    assert done.returncode == 2
    done = titan_neuro("report", two[0], "--participant-label", "7", check=False)
    assert done.returncode == 5
