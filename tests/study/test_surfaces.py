import pytest
from surface_files import write_description, write_dtseries, write_sidecar

from titan_neuro.errors import ConfigError
from titan_neuro.study import Study


@pytest.fixture
def folders(tmp_path):
    root = write_description(tmp_path / "bids")
    stem = root / "sub-01/func/sub-01_task-x_space-fsLR_den-91k_bold"
    write_dtseries(stem.with_name(f"{stem.name}.dtseries.nii"))
    write_sidecar(stem.with_name(f"{stem.name}.json"))
    return root, tmp_path / "output"


def test_a_dry_run_says_what_is_read_from_surfaces(folders):
    (planned,) = Study.open(*folders).plan()
    assert "to prepare (time series on surfaces)" in str(planned)
    assert "sub-01_task-x_space-fsLR_den-91k_bold.dtseries.nii" in str(planned)


def test_surfaces_have_the_settings_of_parcels(folders):
    Study.open(*folders).prepare()
    assert Study.open(None, folders[1]).config.model.tokenizer.kind == "linear"


def test_a_model_of_volumes_is_refused_for_surfaces(folders):
    Study.open(*folders).prepare()
    with pytest.raises(ConfigError, match=r"Swin tokenizer reads volumes, .* are vertices of surfaces") as caught:
        _ = Study.open(None, folders[1], preset="debug").config
    assert "preset: parcels" in caught.value.hint
