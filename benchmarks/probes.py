"""What the probes find in real recordings, yes or no: every probe of every movie, as one page with figures.

``python benchmarks/probes.py`` trains the closed form on every fold of each movie, asks all probes about the held-out
people, and writes the page, the figures and all numbers to ``results/``. Finished stages stay in the working folder,
which is that of ``forecasts.py``: models that it has trained are used, and the same command resumes where it was
stopped. Numbers and sentences are read from the files that `titan-neuro probe` writes.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, provenance
from forecast_datasets import BRIEF, EXAMPLES, Example, Way
from forecasts import open_study

from titan_neuro.evaluation.formatting import markdown_table
from titan_neuro.files import write_bytes, write_json, write_text
from titan_neuro.probing import PROBES
from titan_neuro.report.answers import answers
from titan_neuro.report.probes import ProbeSection, probe_sections
from titan_neuro.report.results import read_results
from titan_neuro.study import Study

MOVIES = {
    "sitcomep1": dataclasses.replace(
        EXAMPLES["episode2"], title="First episode of the sitcom, 200 parcels", ways=(Way(tasks=("sitcomep1",)),)
    ),
    "episode2": dataclasses.replace(EXAMPLES["episode2"], title="Second episode of the sitcom, 200 parcels"),
    "documentary": dataclasses.replace(EXAMPLES["documentary"], title="Documentary, 200 parcels"),
    # With the retelling, which the table of the forecasts leaves out.
    "sherlock-retold": dataclasses.replace(
        EXAMPLES["sherlock"],
        title="Sherlock and its retelling, 481 voxels of posterior medial cortex",
        ways=(Way(),),
        settings=BRIEF,
    ),
}
"""The movies that are probed, by the names of their working folders."""
_PAGE = "probes.md"
_FIGURES = "probes"
_MOST_FIGURES = 2
_METHOD = (
    "Held-out people who watch a movie that the model was trained on in others; each person is held out once. The "
    "closed form alone: the default settings, which do not depend on a seed. An answer is yes where the probe's own "
    "test and every paired test against a control say so; p values are those of the tables, where false discoveries "
    "are controlled within a probe, not over probes and movies."
)


def ask(example: Example, work: Path, source: Path | None, settings: Sequence[str]) -> Study:
    """Prepare, train, and ask every probe that is not answered yet."""
    [way] = example.ways
    study = open_study(example, way, work, source, settings)
    study.prepare()
    study.train()
    for name in PROBES:
        print(study.probe(name), flush=True)
    return study


def collect(name: str, title: str, output: Path, folder: Path) -> dict[str, Any]:
    """Read what was found, and write its figures and tables into a folder.

    Returns
    -------
    dict
        JSON: ``title``, ``answers`` (question, conclusion, reason) and ``probes`` (name, summary, notes, figures with
        their alternative texts, table).
    """
    results = read_results(output)
    found = [
        {"question": one.question, "conclusion": str(one.conclusion), "reason": one.reason} for one in answers(results)
    ]
    probes = []
    for probe, section in zip(results.probes, probe_sections(results.probes), strict=True):
        stem = f"{name}_{probe.name}"
        figures = []
        for number, (source, alt) in enumerate(_pictures(section), start=1):
            kind, _, content = source.partition(";base64,")
            path = folder / f"{stem}_{number}.{'svg' if 'svg' in kind else 'png'}"
            write_bytes(path, base64.b64decode(content))
            figures.append({"file": f"{folder.name}/{path.name}", "alt": alt})
        table = folder / f"{stem}.tsv"
        write_text(table, probe.scores.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.4g"))
        probes.append(
            {"name": probe.name, "summary": probe.summary, "notes": section["notes"], "figures": figures}
            | {"table": f"{folder.name}/{table.name}"}
        )
    return {"title": title, "answers": found, "probes": probes}


def _pictures(section: ProbeSection) -> Iterator[tuple[str, str]]:
    """Figures of the first measures, and the first map that could be drawn."""
    yield from ((figure["source"], figure["alt"]) for figure in section["figures"][:_MOST_FIGURES])
    yield from [picture for one in section["maps"] for picture in one.get("pictures", [])][:1]


def page(found: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any]) -> str:
    """Lay out all movies as Markdown: their answers, then one section each."""
    questions = list(dict.fromkeys(one["question"] for movie in found.values() for one in movie["answers"]))
    rows = []
    for question in questions:
        answered = ([one for one in movie["answers"] if one["question"] == question] for movie in found.values())
        rows.append([question, *(one[0]["conclusion"] if one else "not asked" for one in answered)])
    dirty = " (with uncommitted changes)" if metadata["is_dirty"] else ""
    parts = [
        "# What the memory holds of movies",
        f"Made by `{metadata['command']}` on {metadata['date'][:10]} at commit {metadata['commit']}{dirty}.",
        _METHOD,
        *(
            [f"Not asked at this commit: {', '.join(missing)}."]
            if (missing := [n for n in MOVIES if n not in found])
            else []
        ),
        markdown_table(["question", *found], rows),
    ]
    for name, movie in found.items():
        parts += [f"## {movie['title']} (`{name}`)"]
        parts += [f"- {one['question']} **{one['conclusion']}**: {one['reason']}" for one in movie["answers"]]
        for probe in movie["probes"]:
            parts += [f"### {probe['name']}", probe["summary"]]
            parts += [f"![{figure['alt']}]({figure['file']})" for figure in probe["figures"]]
            parts += [" ".join(probe["notes"]), f"All rows: `benchmarks/results/{probe['table']}`."]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: list[str]) -> None:
    """Ask the probes of all movies or of some, and write the page of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MOVIES, []], metavar="NAME", help=f"of {', '.join(MOVIES)}")
    parser.add_argument("--source", type=Path, help="BIDS folder (default: shared/data beside the project)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "benchmarks/.work")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(arguments)
    folder = options.output_dir / _FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    metadata, found = provenance(arguments), {}
    for name in options.names or MOVIES:
        study = ask(MOVIES[name], options.work_dir / name, options.source, options.settings)
        found[name] = collect(name, MOVIES[name].title, study.output.path, folder)
    write_json((options.output_dir / _PAGE).with_suffix(".json"), {**metadata, "movies": found})
    write_text(options.output_dir / _PAGE, page(found, metadata))


if __name__ == "__main__":
    main(sys.argv[1:])
