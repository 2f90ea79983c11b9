"""The two sides of the benchmark, played by packages that use up what they are told to."""

import pytest
from common import BenchmarkError
from evaluate_and_probe import Side, measure_rounds, results_of

# Uses some processor time for `probe`, and refuses a stage whose result is there already.
_PACKAGE = """
import pathlib, sys, time
from more import SECONDS
arguments = sys.argv[1:]
result = pathlib.Path(arguments[-1]) / "-".join(arguments[:-1])
if result.exists():
    sys.exit("done before")
while arguments[0] == "probe" and time.process_time() < SECONDS:
    pass
result.write_text("made")
"""


def make_side(folder, name, seconds):
    package, more = folder / name / "package" / "titan_neuro", folder / name / "more"
    for made in (package, more, folder / name / "studies" / "trained"):
        made.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_PACKAGE)
    (more / "more.py").write_text(f"SECONDS = {seconds}")
    return Side(name=name, package=package.parent, more_packages=more, folder=folder / name / "studies")


def test_sides_are_compared_stage_by_stage(tmp_path):
    sides = [make_side(tmp_path, "now", 0.1), make_side(tmp_path, "before", 0.5)]
    stages = ["evaluate", "time-segment-matching"]
    found = measure_rounds(sides, stages, n_rounds=2)
    assert found["time-segment-matching"]["before"]["cpu_s"] > 0.5
    assert 1e6 < found["evaluate"]["now"]["peak_bytes"] < 1e9
    assert (tmp_path / "before/studies/round/probe-moment-matching").is_file(), "called by its name of then"
    assert not list((tmp_path / "before/studies/trained").iterdir()), "the trained study stays as it is"
    whole, memory, *rows = results_of(found)
    assert whole.found > 1 and whole.details["before"] > whole.details["now"]
    assert memory.found == pytest.approx(1, abs=0.5)
    assert [row.case for row in rows] == stages and rows[1].found > 2


def test_a_stage_that_fails_is_quoted(tmp_path):
    side = make_side(tmp_path, "now", 0)
    side.run("evaluate", str(side.folder))
    with pytest.raises(BenchmarkError, match=r"now: evaluate .* failed with code 1: done before"):
        side.run("evaluate", str(side.folder))
