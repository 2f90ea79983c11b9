"""The recipes of the container: pinned, not root's, the same for Docker and Apptainer; the Dockerfile works."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_study

ROOT = Path(__file__).parents[2]
SETUP = (ROOT / "container/setup.sh").read_text()
APPTAINER = (ROOT / "container/titan-neuro.def").read_text()
DOCKERFILE = re.findall(r"^([A-Z]+) (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
NOBODY = 12345


def instructions(name):
    return [shlex.split(given) for instruction, given in DOCKERFILE if instruction == name]


def section(name):
    """Return the lines of a part of the Apptainer definition."""
    [found] = re.findall(rf"^%{name}\n((?:    .*\n)+)", APPTAINER, re.MULTILINE)
    return [line.strip() for line in found.splitlines()]


def copied():
    """Return where each copied file or folder goes, by its place in the project."""
    return {source: target for *sources, target in instructions("COPY") for source in sources}


def test_the_base_is_a_dated_image():
    [[base]] = instructions("FROM")
    assert re.fullmatch(r"debian:bookworm-20\d{6}-slim", base)
    assert f"Bootstrap: docker\nFrom: {base}\n" in APPTAINER


def test_the_app_does_not_run_as_root():
    assert instructions("USER") == [["titan"]]
    assert "useradd --create-home titan" in SETUP
    names = [name for name, _ in DOCKERFILE]
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")


def test_all_that_is_installed_from_is_copied():
    assert all((ROOT / source).exists() for source in copied())
    needed = {
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
        "titan_neuro",
        "pipelines",
    }
    assert set(copied()) == needed | {"container"}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied()} <= set(ignored)
    assert [line.split()[0] for line in section("files")] == list(copied())


def test_both_recipes_do_the_same():
    assert instructions("RUN") == [["/opt/titan-neuro/container/setup.sh"]]
    assert section("post")[-1] == "/opt/titan-neuro/container/setup.sh"
    assert section("runscript") == ['exec titan-neuro run "$@"']
    assert json.loads(next(given for name, given in DOCKERFILE if name == "ENTRYPOINT")) == ["titan-neuro", "run"]


def test_the_script_calls_targets_that_exist():
    assert subprocess.run(["sh", "-n", ROOT / "container/setup.sh"], check=False).returncode == 0
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", SETUP, re.MULTILINE)
    assert targets == ["install"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


class Image:
    """The Dockerfile, followed step by step in a root file system of Debian's packages: no Docker is needed.

    Inside, pip is told what it is told outside: where packages are, and whose certificates count.
    """

    def __init__(self, root):
        self.root, self.environment = root, {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.mounts = {Path("/dev"): "/dev", Path("/proc"): "/proc"}
        release = instructions("FROM")[0][0].split(":")[1].split("-")[0]
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", release, root], check=True)
        self.pip = self._pip_settings()
        for name, given in DOCKERFILE:
            getattr(self, f"_{name.lower()}", lambda given: None)(given)

    def _pip_settings(self):
        """Return pip's settings outside as variables; what they name is mounted under ``/outside``."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        settings = {}
        for key, value in re.findall(r"^(?::env:|\w+)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE):
            for path in map(Path, re.findall(r"(?:file://)?(/[\w./-]+)", value)):
                if path.exists():
                    # The pages of an index link to files beside it.
                    shown = path.parent if key.endswith("index-url") else path
                    self.mounts[shown] = f"/outside{shown}"
                    value = re.sub(rf"(?<!outside){path}(?![\w/])", f"/outside{path}", value)
            settings[f"PIP_{key.upper().replace('-', '_')}"] = value
        return settings

    def _copy(self, given):
        *sources, target = shlex.split(given)
        for source in sources:
            inside = self.root / target.strip("/") / (source if target.endswith("/") else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, inside, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, inside)

    def _run(self, given):
        done = self.call(["sh", "-c", given], self.pip)
        assert done.returncode == 0, done.stdout[-5000:]

    def _env(self, given):
        self.environment |= dict(word.split("=", 1) for word in shlex.split(given))

    def _entrypoint(self, given):
        self.entrypoint = json.loads(given)

    def call(self, command, environment=(), user=0, mounts=()):
        """Run a command inside; mounts vanish with it."""
        mounted = {**self.mounts, **dict(mounts)}
        lines = ["set -e"]
        for outside, inside in mounted.items():
            place = self.root / inside.strip("/")
            (place if outside.is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
            if outside.is_file():
                place.touch()
            lines.append(shlex.join(["mount", "--rbind", str(outside), str(place)]))
        given = [f"{name}={value}" for name, value in {**self.environment, **dict(environment)}.items()]
        inside = ["chroot", f"--userspec={user}:{user}", str(self.root), "env", "-i", *given, *command]
        lines.append(f"exec {shlex.join(inside)}")
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", "\n".join(lines)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mmdebstrap") is None, reason="needs root and Debian's mmdebstrap"
)
def test_the_image_is_an_app(tmp_path, request):
    image = Image(tmp_path / "root")
    request.addfinalizer(lambda: shutil.rmtree(image.root))  # 4 GB
    tiny_study.write_dataset(tmp_path / "bids")
    (tmp_path / "bids/settings.yaml").write_text(tiny_study.SETTINGS)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", NOBODY, NOBODY)
    mounts = {tmp_path / "bids": "/data", tmp_path / "out": "/out"}
    for level in ("participant", "group"):
        command = [*image.entrypoint, "/data", "/out", level, "--config-file", "/data/settings.yaml"]
        done = image.call(command, user=NOBODY, mounts=mounts)
        assert done.returncode == 0, done.stdout[-5000:]
    assert {path.stat().st_uid for path in (tmp_path / "out").rglob("*")} == {NOBODY}
    assert (tmp_path / "out/report.html").stat().st_size > 100_000
    check = "from titan_neuro.titans.memory import native; print(native.IS_COMPILED)"
    assert image.call(["python", "-c", check]).stdout.strip() == "True"
