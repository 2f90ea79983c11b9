"""What docs/models.md shows is true: its Python runs, and the names it gives exist."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.models import (
    GRUConfig,
    LMMConfig,
    MACConfig,
    MAGConfig,
    MALConfig,
    TitansLMConfig,
    TransformerConfig,
)

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def examples():
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(code):
    names = {}
    exec(compile(code, "docs/models.md", "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_streaming_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(examples()[0])
    assert names["y"].shape == (2, 8, 64)
    assert names["model"].config == MACConfig(dim=64, tokens_per_time_point=8)


def test_the_language_model_learns_and_continues_its_text():
    torch.manual_seed(0)
    names = run(examples()[1])
    assert torch.cat([names["ids"], names["more"]], dim=1).tolist() == [[n % 6 for n in range(20, 40)]]
    assert names["logits"].shape == (4, 128, 16)


@pytest.mark.parametrize("config", [LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig])
def test_every_variant_is_in_the_table(config):
    assert re.search(rf"^\| `{config().variant}`", PAGE, re.MULTILINE)


def test_every_setting_that_is_named_exists():
    kinds = (LMMConfig, MACConfig, MAGConfig, MALConfig, TitansLMConfig)
    known = {"state", *(field.name for kind in kinds for field in dataclasses.fields(kind))}
    known |= {f"memory.{field.name}" for field in dataclasses.fields(NeuralMemoryConfig)}
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|", PAGE.split("## Coming from")[1], re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`([a-z][\w.]*)`", cell)}
    assert len(named) >= 8
    assert named <= known
