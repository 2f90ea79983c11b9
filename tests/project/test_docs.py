"""What the pages of docs/ show is true: commands parse, settings exist, the Python runs, the site holds together."""

import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages
import pytest
import yaml
from packaging.requirements import Requirement

from titan_neuro.cli.command import build_parser
from titan_neuro.study import load_study

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
COMMANDS = [(name, command) for name, text in TEXTS.items() for command in pages.commands(text)]
SETTINGS = [(name, block) for name, text in TEXTS.items() for block in pages.blocks(text, "yaml")]


def test_there_are_commands_and_settings():
    assert {"README.md", "docs/tour.md", "docs/ds003017.md"} <= {name for name, _ in COMMANDS}
    assert {"docs/probing.md", "docs/settings.md", "docs/tour.md"} <= {name for name, _ in SETTINGS}


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_parses(name, command):
    assert build_parser().parse_args(command).subcommand == command[0], name


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_every_setting_exists(name, settings, tmp_path):
    (tmp_path / "settings.yaml").write_text(settings)
    load_study(default_preset="parcels", config_file=tmp_path / "settings.yaml")


def test_the_ecosystem_names_every_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = TEXTS["docs/ecosystem.md"].lower()
    assert [name for name in map(_distribution, project["dependencies"]) if name not in table] == []


def _distribution(requirement):
    return Requirement(requirement).name.lower()


def test_the_python_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in pages.blocks(TEXTS["docs/python.md"], "python"):
        pages.run_python(code, names)
    assert names["forecasts"].shape == (200, 3, 20)
    assert names["later"].shape == (100, 3, 20)
    assert len(names["model"].fitted_runs) == 3
    assert names["more"].shape == (2, 10, 64)


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch, titan_neuro):
    monkeypatch.chdir(tmp_path)
    text = TEXTS["docs/tour.md"]
    [settings] = pages.blocks(text, "yaml")
    Path(settings.splitlines()[0].removeprefix("# ")).write_text(settings)
    for command in pages.commands(text):
        titan_neuro(*command)
    [code] = pages.blocks(text, "python")
    names = pages.run_python(code)
    assert len(names["more"]) == 10
    assert Path("tour/output/report.html").stat().st_size > 100_000
    assert yaml.safe_load(settings)["preset"] == "debug"


class _Page(HTMLParser):
    """Names and links of a page, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.loaded = path, set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "link", "iframe"):
            self.loaded += [given[name] for name in ("src", "href") if given.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the built site, by its path."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(target)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return {path: _Page(path) for path in target.rglob("*.html") if "_static" not in path.parts}


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_links_of_the_site_resolve(site):
    broken = []
    for page in site.values():
        for link in map(urlsplit, page.links):
            if link.scheme or link.netloc:
                continue
            target = (page.path.parent / unquote(link.path)).resolve() if link.path else page.path
            found = site[target].ids if target in site else set()
            if not target.exists() or (unquote(link.fragment) and unquote(link.fragment) not in found):
                broken.append(f"{page.path.name}: {link.geturl()}")
    assert not broken
    assert len(site) > len(PAGES)


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_site_loads_nothing_from_elsewhere(site):
    assert [address for page in site.values() for address in page.loaded if urlsplit(address).netloc] == []


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_reference_follows_the_code(site):
    ids = {path.name: page.ids for path, page in site.items()}
    assert {"prepare", "train", "evaluate", "probe", "run"} <= ids["commands.html"]
    assert "titan_neuro.study.Study.evaluate" in ids["study.html"]
    [settings] = [path.read_text() for path in site if path.name == "settings.html"]
    assert all(f">{name}<" in settings for name in ("training.max_epochs", "model.lookahead.rule", "prepare.atlas"))
