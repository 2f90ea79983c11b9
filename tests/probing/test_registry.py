"""Every registered probe can be built from its settings, and the registry is light to import."""

import subprocess
import sys

import pytest
from delay_memory import probe_setup

from titan_neuro.probing import PROBES, ProbeConfig
from titan_neuro.probing.probe_settings import SurpriseConfig
from titan_neuro.probing.surprise import SurpriseProbe


@pytest.mark.parametrize("name", PROBES)
def test_registered_probe_is_built(name):
    settings = ProbeConfig().settings(name)
    assert type(settings) is PROBES[name].load_config_class()
    probe = ProbeConfig().build(name, probe_setup())
    assert callable(probe.add) and callable(probe.results)


def test_settings_reach_the_probe():
    probe = ProbeConfig(surprise=SurpriseConfig(event_s=12)).build("surprise", probe_setup())
    assert isinstance(probe, SurpriseProbe) and probe.config.event_s == 12


def test_registry_imports_neither_torch_nor_pandas():
    code = (
        "import sys; from titan_neuro.probing import PROBES; print({'torch', 'pandas'} & set(sys.modules), len(PROBES))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["set()", str(len(PROBES))]
