"""The page of the probes, whole, from a small study; what they find is not tested here."""

import json
import re

import probes
import pytest
from parcels_dataset import write_parcels

# All six probes take a minute, however small the data.
pytestmark = pytest.mark.slow
SMALL = [
    *("model.backbone.dim=8", "model.backbone.n_layers=1", "model.backbone.n_heads=2", "model.horizons=[1, 2]"),
    *("model.recall.width=8", "model.lookahead={n_lags: 2, n_components: 4, key_width: 8}", "probe.n_permutations=99"),
    *("probe.context_length.origins_per_run=4", "probe.history_swap.swaps_per_run=2", "evaluation.n_resamples=1000"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("probes")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    given = ["--source", str(write_parcels(work / "parcels", tasks=("sitcomep2",)))]
    probes.main(["episode2", *given, *settings, "--work-dir", str(work), "--output-dir", str(work / "results")])
    return work / "results"


def test_each_question_is_answered_or_it_is_said_why_not(made):
    page = (made / "probes.md").read_text()
    [table] = re.findall(r"(?:^\|.*\n)+", page, re.M)
    assert table.count("\n") == 2 + 6
    # Nothing was retold, and nothing is annotated.
    for question in ("retold", "annotations"):
        [line] = [line for line in page.splitlines() if line.startswith("- ") and question in line.lower()]
        assert "**not asked**" in line


def test_numbers_and_figures_are_those_of_the_probes(made):
    [movie] = json.loads((made / "probes.json").read_text())["movies"].values()
    assert [probe["name"] for probe in movie["probes"]]
    page = (made / "probes.md").read_text()
    for probe in movie["probes"]:
        assert probe["summary"] in page
        table = (made / probe["table"]).read_text().splitlines()
        assert table[0].startswith("measure") and len(table) > 1
        for figure in probe["figures"]:
            content = (made / figure["file"]).read_bytes()
            assert content.startswith((b"<?xml", b"\x89PNG")) and figure["alt"] in page
