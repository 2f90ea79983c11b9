"""The package works with torch, jaxtyping, pydantic, safetensors, our errors, settings and lazy names, and no more."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import titan_neuro

# NumPy because safetensors writes with it, without saying so in its requirements.
PERMITTED = ("torch", "jaxtyping", "pydantic", "safetensors", "numpy")
TEST_TOOLS = ("pytest", "hypothesis")
SOURCE = Path(titan_neuro.__file__).parent
# What the rest of Titan-Neuro needs, but for what torch itself tries to import (such as pandas and scikit-learn).
FOREIGN = {"nilearn", "nibabel", "monai", "lightning", "zarr", "datalad", "bids", "statsmodels", "huggingface_hub"}

USE = """
import json
import sys

site, temporary = sys.argv[1:]
sys.path.insert(0, site)


class Attempts:
    names = set()

    def find_spec(self, name, path=None, target=None):
        self.names.add(name)


sys.meta_path.insert(0, Attempts())

import torch
from titan_neuro.titans import LMMConfig, MACConfig, MAGConfig, MALConfig, TitansLM, TitansLMConfig
from titan_neuro.titans.models import GRUConfig, TransformerConfig

for config in (LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig):
    model = config(dim=16, tokens_per_time_point=2).build()
    y, state = model(torch.randn(2, 8, 16))
    y, state = model(torch.randn(2, 8, 16), state)
    y.square().mean().backward()
model = TitansLM(TitansLMConfig(vocab_size=9, backbone=MACConfig(dim=16)))
model.save_pretrained(temporary)
model = TitansLM.from_pretrained(temporary)
ids = model.generate(torch.zeros(1, 3, dtype=torch.int64), 4)
loaded = {name for name in sys.modules if name.split(".")[0] == "titan_neuro"}
print(json.dumps({"shape": list(ids.shape), "attempts": sorted(Attempts.names), "loaded": sorted(loaded)}))
"""


def requirements(names):
    """The installed distributions of these names, with all that they require."""
    distributions, missing = {}, list(names)
    while missing:
        name = missing.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.name in distributions:
            continue
        distributions[distribution.name] = distribution
        required = [requirement for requirement in distribution.requires or () if "extra ==" not in requirement]
        missing += [re.split(r"[ <>=!~;\[(]", requirement)[0] for requirement in required]
    return distributions.values()


def make_site(folder, names):
    """A folder of links to these distributions, what they require, and of our package what is permitted."""
    (folder / "titan_neuro").mkdir(parents=True)
    for distribution in requirements(names):
        for top in {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}:
            target = folder / top
            if not target.exists():
                target.symlink_to(distribution.locate_file(top))
    for name in ("__init__.py", "errors.py", "lazy.py", "settings.py", "titans"):
        (folder / "titan_neuro" / name).symlink_to(SOURCE / name)
    metadata = folder / f"titan_neuro-{titan_neuro.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: titan-neuro\nVersion: {titan_neuro.__version__}\n"
    )
    return folder


def run_isolated(site, code, *arguments):
    """Run code in a Python that sees the standard library and the folder `site` only."""
    command = [sys.executable, "-I", "-S", "-c", code, str(site), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_model_works_in_isolation(tmp_path):
    site = make_site(tmp_path / "site", PERMITTED)
    result = json.loads(run_isolated(site, USE, tmp_path / "model").splitlines()[-1])
    assert result["shape"] == [1, 4]
    assert not {name.split(".")[0] for name in result["attempts"]} & FOREIGN
    permitted = re.compile(r"titan_neuro($|\.(errors|lazy|settings)$|\.titans($|\.))")
    assert all(map(permitted.match, result["loaded"]))


RUN_TESTS = """
import sys

site, tests = sys.argv[1:]
sys.path.insert(0, site)
import pytest


class NoShapeChecks:
    @pytest.fixture
    def without_shape_checks(self):
        # None to switch off: the project's own conftest.py makes them.
        return


options = ["-q", "-x", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tests, "--confcutdir", tests]
options += ["-m", "not slow", "-k", "not isolation", "--import-mode=importlib", tests]
sys.exit(pytest.main(options, [NoShapeChecks()]))
"""


@pytest.mark.slow
def test_all_tests_of_the_package_pass_in_isolation(tmp_path):
    site = make_site(tmp_path / "site", (*PERMITTED, *TEST_TOOLS))
    assert " passed" in run_isolated(site, RUN_TESTS, Path(__file__).parent)
