import pytest

from titan_neuro.report.limits import limits
from titan_neuro.report.results import read_results


def limits_of(output):
    return "\n".join(limits(read_results(output.root)))


def test_nothing_scored_is_the_first_limit(output_folder):
    assert limits_of(output_folder()).startswith("No forecast has been scored")


@pytest.mark.parametrize(
    ("n_subjects", "included", "excluded"),
    [
        (1, "describe this person only", "2 subjects"),
        (2, "2 subjects were scored. With fewer than 3", "this person"),
        (3, "3 subjects were scored. Intervals from so few", "no inference"),
        (
            10,
            "not in the table, so titan-mac was not compared with them: var (vector autoregression",
            "subjects were scored",
        ),
    ],
)
def test_few_subjects(output_folder, n_subjects, included, excluded):
    text = limits_of(output_folder(subjects=tuple(f"{n:02d}" for n in range(n_subjects))).scores())
    assert included in text
    assert excluded not in text


def test_skills_below_zero_name_their_lead_time(shared_output):
    text = limits_of(shared_output)
    assert "At lead time h = 10 titan-mac does not beat linear autoregression" in text
    assert "not corrected for multiple comparisons over 4 lead times" in text


def test_an_interval_that_includes_zero_is_named(full_output):
    path = full_output.group / "task-movie_desc-forecast_scores.tsv"
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    row = next(row for row in rows if row[0] == "titan-mac" and row[2] == "2")
    row[header.index("skill_ar_low")] = "-0.001"
    path.write_text("\n".join("\t".join(line) for line in [header, *rows]) + "\n", encoding="utf-8")
    assert "At lead time h = 2 the interval of skill_ar includes 0" in limits_of(full_output)


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [("run", "a subject who is not in the training data"), ("subject", "specific to this stimulus"), ("strict", "")],
)
def test_the_protocol_has_its_limit(output_folder, protocol, sentence):
    text = limits_of(output_folder().scores(protocol=protocol))
    assert sentence in text
    assert ("who is not in the training data" in text) == (protocol == "run")


def test_baselines_alone_don_t_describe_a_memory(output_folder):
    text = limits_of(output_folder().scores(models=("mean", "persistence", "ar")))
    assert "Only baselines were scored" in text
    assert "not in the table" not in text


def test_one_seed_is_named(shared_output):
    assert "trained with 1 seed" in limits_of(shared_output)


def test_coarse_voxels_and_untested_maps(shared_output):
    text = limits_of(shared_output)
    assert "Voxels are 12 mm wide" in text
    assert "maps of the forecast and of timescales are not tested" in text
    assert "native" not in text
    assert "atlas" not in text


def test_native_space(output_folder):
    assert "don't allow to name a region" in limits_of(output_folder().scores().volumes("native"))


def test_parcels(output_folder):
    text = limits_of(output_folder().scores().parcels(["a", "b", "c"]))
    assert "without the image of the atlas" in text
    assert "Voxels" not in text


def test_the_curve_describes_the_model_not_the_brain(shared_output):
    assert "how much history this model uses" in limits_of(shared_output)
