import pytest

from titan_neuro.report.limits import limits
from titan_neuro.report.results import read_results


def limits_of(output):
    return "\n".join(limits(read_results(output.root)))


def test_nothing_scored_is_the_first_limit(output_folder):
    assert limits_of(output_folder()).startswith("No forecast has been scored")


@pytest.mark.parametrize(
    ("n_subjects", "said", "unsaid"),
    [
        (1, "describe this person and nobody else", "2 subjects"),
        (2, "2 subjects were scored: with fewer than 3", "this person"),
        (3, "3 subjects were scored: an interval from so few", "no inference"),
        (
            10,
            "Not in the table, so that whether titan-mac beats them is open: VAR, VAR that goes on learning, a GRU",
            "subjects were scored",
        ),
    ],
)
def test_few_subjects(output_folder, n_subjects, said, unsaid):
    text = limits_of(output_folder(subjects=tuple(f"{n:02d}" for n in range(n_subjects))).scores())
    assert said in text
    assert unsaid not in text


def test_a_skill_below_zero_is_named_with_its_horizon(full_output):
    text = limits_of(full_output)
    assert "At h = 10 titan-mac does not beat linear AR" in text
    assert "not corrected for the 4 horizons" in text


def test_an_interval_that_holds_zero_is_named(full_output):
    path = full_output.group / "task-film_desc-forecast_scores.tsv"
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    row = next(row for row in rows if row[0] == "titan-mac" and row[2] == "2")
    row[header.index("skill_ar_low")] = "-0.001"
    path.write_text("\n".join("\t".join(line) for line in [header, *rows]) + "\n", encoding="utf-8")
    assert "At h = 2 the interval of skill_ar holds zero" in limits_of(full_output)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [("run", "a person the model has never seen"), ("subject", "knowledge of this stimulus"), ("strict", "")],
)
def test_the_protocol_has_its_limit(output_folder, protocol, said):
    text = limits_of(output_folder().scores(protocol=protocol))
    assert said in text
    assert ("never seen" in text) == (protocol == "run")


def test_baselines_alone_say_nothing_of_a_memory(output_folder):
    text = limits_of(output_folder().scores(models=("mean", "persistence", "ar")))
    assert "Only baselines were scored" in text
    assert "Not in the table" not in text


def test_one_seed_is_named(full_output):
    assert "trained from one seed" in limits_of(full_output)


def test_coarse_voxels_and_untested_maps(full_output):
    text = limits_of(full_output)
    assert "Voxels are 12 mm wide" in text
    assert "No map of the forecast or of timescales is tested" in text
    assert "native" not in text
    assert "atlas" not in text


def test_native_space(output_folder):
    assert "no region can be named" in limits_of(output_folder().scores().volumes("native"))


def test_parcels(output_folder):
    text = limits_of(output_folder().scores().parcels(["a", "b", "c"]))
    assert "no atlas image" in text
    assert "Voxels" not in text


def test_the_probe_speaks_of_the_model(full_output):
    assert "how much history this model uses" in limits_of(full_output)
