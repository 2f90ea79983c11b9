"""Source distribution and wheel: what they hold, that they work outside the checkout, and without a compiler."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "titan_neuro", "pipelines")
# A small copy of what `make demo` does.
SIMULATED = "--subjects 4 --runs 2 --volume-scale 0.12 --voxel-size-mm 20 --set story_fraction=0.15"
RETELLING = "probe.recall={tasks: {watching: movie, retelling: recall}, delay_s: 0}"


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(folder, **environment):
    """Build both from a copy of the sources, without a network: the wheel is built from the source distribution."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, source)
    options = ("--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    run(BIN / "uv", "build", *options, source, env={**os.environ, **environment})
    [archive], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def install(wheel, folder):
    """Install a wheel into an environment of its own; return its commands' folder, and variables for them.

    The packages that it needs are those of this environment, without this checkout, which is installed beside them.
    """
    run(BIN / "uv", "venv", "--offline", "--python", sys.executable, folder)
    # This checkout's settings of uv are for its lock file.
    options = ("--no-config", "--offline", "--no-deps", "--python", folder / "bin/python")
    run(BIN / "uv", "pip", "install", *options, wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return folder / "bin", {**environment, "PATH": f"{folder / 'bin'}:{BIN}:{environment['PATH']}"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
@pytest.mark.xdist_group("distribution")
def test_everything_is_in_the_archives(built):
    archive, wheel = built
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "titan_neuro").rglob("*") if path.is_file()}
    tracked = {name for name in tracked if "__pycache__" not in name and not name.endswith((".so", ".md"))}
    with tarfile.open(archive) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
    pipelines = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipelines").rglob("*") if path.is_file()}
    assert tracked | pipelines | {"setup.py", "LICENSE"} <= inside
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    modules = {name for name in tracked if not name.endswith((".cpp", ".h"))}
    assert modules <= set(names)
    assert len([name for name in names if "/_native" in name]) == 1
    share = {name.partition("share/titan-neuro/")[2] for name in names}
    assert pipelines <= share


@pytest.mark.slow
@pytest.mark.xdist_group("distribution")
def test_the_wheel_runs_the_demo(built, tmp_path):
    commands, environment = install(built[1], tmp_path / "venv")
    where = "from titan_neuro.titans.memory import native; print(native.__file__, native.IS_COMPILED)"
    said = run(commands / "python", "-c", where, cwd=tmp_path, env=environment)
    assert said.startswith(str(tmp_path / "venv")) and said.strip().endswith("True")

    def titan_neuro(*arguments):
        return run(commands / "titan-neuro", *arguments, cwd=tmp_path, env=environment)

    share = tmp_path / "venv/share/titan-neuro/pipelines"
    assert str(share) in titan_neuro()
    titan_neuro("simulate", "source", *SIMULATED.split())
    titan_neuro("fetch", "source", "bids")
    for level in ("participant", "group"):
        said = titan_neuro("run", "bids", "output", level, "--config-file", share / "demo.yaml", "--set", RETELLING)
    assert "Report: output/report.html" in said
    assert (tmp_path / "output/report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_without_a_compiler_it_works_in_torch(tmp_path):
    (tmp_path / "dist").mkdir()
    _, wheel = build(tmp_path / "dist", CC="false", CXX="false")
    commands, environment = install(wheel, tmp_path / "venv")
    code = """
import torch
from titan_neuro.titans import NeuralMemory, NeuralMemoryConfig
from titan_neuro.titans.memory import native

print(native.IS_COMPILED, NeuralMemory(NeuralMemoryConfig(), dim=16)(torch.zeros(1, 20, 16))[0].shape)
"""
    assert run(commands / "python", "-c", code, cwd=tmp_path, env=environment).startswith(
        "False torch.Size([1, 20, 16])"
    )
