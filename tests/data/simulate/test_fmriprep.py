"""A synthetic dataset with every option on: names, sidecars, ground truth, head motion, reproducible bytes."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from titan_neuro.data.bids.annex import annex_key
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.files import template_brain
from titan_neuro.data.simulate.head import draw_head, draw_position
from titan_neuro.data.simulate.images import write_image
from titan_neuro.data.simulate.scanner import Scanner, SubjectAnatomy
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents

FULL = SimulateConfig(
    n_subjects=2,
    n_runs=2,
    volume_scale=0.1,
    voxel_size_mm=14,
    association_fraction=0.2,
    delayed_response_fraction=0.2,
    delayed_response_lags_s=(10, 30),
    transforms=True,
)
MINIMAL = "derivatives/ds003017-fmriprep"


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """Two subjects with every kind of signal, recorded by the scanner."""
    root = tmp_path_factory.mktemp("everything") / "synthetic"
    simulate(root, FULL)
    return root


def files(root: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(root)): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".git", ".datalad"} & set(path.relative_to(root).parts)
    }


def test_names_are_the_published_ones(everything, published):
    raw, _ = published("ds003017-metadata.tar.gz", "nothing")
    derived, _ = published("ds003017-fmriprep-metadata.tar.gz", "nothing")
    names = set(files(everything))
    assert {name for name in names if name.startswith("sub-")} <= raw
    minimal = {name.removeprefix(f"{MINIMAL}/") for name in names if name.startswith(MINIMAL)}
    assert minimal <= derived
    # The published derivatives of two runs, without surfaces, other templates and the field's coefficients.
    not_simulated = (".gii", "fsnative", "MNI152NLin6Asym", "coeff", "ribbon", "aseg", "run-03", "run-04", "run-05")
    of_two = {name for name in derived if name.startswith(("sub-sid000005/", "sub-sid000007/")) and "." in name}
    assert {name for name in of_two if not any(part in name for part in not_simulated)} == {
        name for name in minimal if name.startswith("sub-")
    }


def test_sidecars_have_the_published_keys(everything, published):
    _, content = published("ds003017-fmriprep-metadata.tar.gz", "sub-sid000005/")
    for name, path in files(everything / MINIMAL).items():
        if name.startswith("sub-sid000005") and name.endswith(".json"):
            assert json.loads(path.read_text()).keys() <= json.loads(content[name]).keys()
    fieldmap = json.loads(
        (everything / MINIMAL / "sub-sid000005/fmap/sub-sid000005_acq-25mm_fmapid-auto00000_desc-preproc_fieldmap.json")
        .read_text()
    )  # fmt: skip
    assert fieldmap["Units"] == "Hz"
    assert (everything / MINIMAL / "sub-sid000005/fmap" / fieldmap["AnatomicalReference"]).exists()
    assert all((everything / "sub-sid000005" / name).exists() for name in fieldmap["IntendedFor"])


def test_bids_validator_finds_no_error(everything):
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([program, "--json", everything], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert done.returncode == 0


def test_same_seed_same_bytes(everything, tmp_path):
    simulate(tmp_path / "again", FULL)
    again, first = files(tmp_path / "again"), files(everything)
    digests = [
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
        for found in (first, again)
    ]
    assert digests[0] == digests[1]
    binary = {name: path for name, path in first.items() if name.endswith((".nii.gz", ".h5", "xfm.txt"))}
    assert len(binary) == 2 * (4 + 10 + 2 * (1 + 5)) + 7
    assert all(annex_key(path).startswith("MD5E-s") for path in binary.values())


def test_recordings_are_oriented_as_a_scanner_stores_them(everything):
    affines = []
    for name in ("sub-sid000005", "sub-sid000007"):
        image = nib.load(everything / name / "func" / f"{name}_task-movie_run-01_bold.nii.gz")
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
        np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-3)
        np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 14, rtol=1e-6)
        affines.append(image.affine)
        data = np.asarray(image.dataobj)
        # The image covers the whole brain: its edges have no signal except by interpolation.
        edges = np.ones(data.shape[:3], dtype=bool)
        edges[1:-1, 1:-1, 1:-1] = False
        assert (data[edges].mean(-1) < 100).all()
        reference = nib.load(next((everything / MINIMAL / name / "func").glob("*run-01_desc-hmc_boldref.nii.gz")))
        np.testing.assert_array_equal(reference.affine, image.affine)
        assert np.corrcoef(np.asarray(reference.dataobj).ravel(), data.mean(-1).ravel())[0, 1] > 0.999
    oblique = affines[0][:3, :3] / 14 * [-1, 1, 1]
    assert 0.5 < np.rad2deg(np.arccos((np.trace(oblique) - 1) / 2)) < 25
    assert not np.allclose(*affines, atol=0.1)


def test_tissues_fill_the_brain(everything):
    stem = everything / MINIMAL / "sub-sid000005/anat/sub-sid000005_acq-MPRAGE"
    loaded = {
        name: np.asarray(nib.load(f"{stem}_{name}.nii.gz").dataobj)
        for name in ("desc-brain_mask", "dseg", "label-GM_probseg", "label-WM_probseg", "label-CSF_probseg")
    }
    mask = loaded["desc-brain_mask"] > 0
    volume = mask.sum() * np.prod(nib.load(f"{stem}_dseg.nii.gz").header.get_zooms()) / 1e6
    assert 1.3 < volume < 2.4
    total = sum(loaded[f"label-{tissue}_probseg"] for tissue in ("GM", "WM", "CSF"))
    assert total[mask].mean() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(loaded["dseg"] > 0, mask)
    # BIDS' order: grey, white, fluid.
    for label, tissue in enumerate(("GM", "WM", "CSF"), start=1):
        of_label = loaded[f"label-{tissue}_probseg"]
        assert of_label[loaded["dseg"] == label].mean() > 2 * of_label[mask & (loaded["dseg"] != label)].mean()


def test_truth_describes_associations_and_delayed_responses(everything):
    truth = json.loads((everything / "truth.json").read_text())
    associations, delayed_responses = truth["associations"], truth["delayed_responses"]
    labels = np.asarray(nib.load(everything / associations["voxel_image"]).dataobj)
    names = pd.read_csv(everything / "derivatives/truth/desc-memory_dseg.tsv", sep="\t").set_index("index")["name"]
    assert names.to_dict() == {1: "cue", 2: "response", 3: "source", 4: "delayed-1", 5: "delayed-2"}
    assert delayed_responses["lags_s"] == {"delayed-1": 10, "delayed-2": 30}
    patterns = {**associations["patterns"], **delayed_responses["patterns"]}
    for index, name in names.items():
        image = np.asarray(nib.load(everything / patterns[name]).dataobj)
        np.testing.assert_array_equal((image != 0).any(-1), labels == index)
    run = truth["runs"][1]
    cues = pd.read_csv(
        everything / "derivatives/truth/sub-sid000007/func/sub-sid000007_task-movie_run-02_desc-cue_events.tsv",
        sep="\t",
    )
    pairing = associations["pairing"]["sub-sid000007"]
    assert len(cues) > 0
    assert [pairing[cue - 1] for cue in cues["cue"]] == list(cues["response"])
    complete = cues.dropna()
    assert (complete["response_onset"] - complete["onset"] == associations["lag_s"]).all()
    assert cues["onset"].between(run["fixation"], run["fixation"] + run["stimulus"] - 1).all()
    sources = pd.read_csv(
        everything / "derivatives/truth/sub-sid000007/func/sub-sid000007_task-movie_run-02_desc-source_timeseries.tsv",
        sep="\t",
    )
    assert list(sources["volume"]) == list(range(run["fixation"] - 30, run["fixation"] + run["stimulus"]))


def test_memory_does_not_grow_with_run_length(tmp_path):
    config = SimulateConfig(n_runs=5, volume_scale=1, voxel_size_mm=20, transforms=True)
    brain, run = template_brain(config), run_designs(config)[4]
    head = draw_head(config, 0, brain.coordinates_mm())
    scanner = Scanner(config, SubjectAnatomy(head, brain), draw_position(config, 0, run, head))
    stimulus = latents_at_volumes(stimulus_latents(config), run)

    def peak(n_volumes: int) -> int:
        # What earlier tests have left would else be collected at another place each time.
        gc.collect()
        tracemalloc.start()
        part = replace(run, n_volumes=n_volumes)
        volumes = simulate_run(
            config, 0, part, stimulus=stimulus, regions=brain.regions, baseline=brain.baseline, scanner=scanner
        )
        write_image(tmp_path / "bold.nii.gz", scanner.grid, volumes, n_volumes=n_volumes)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)
    # Eight times the volumes; only the drift's few numbers per volume grow.
    one_volume = 2 * scanner.n_voxels
    assert peak(803) - peak(100) < 20 * one_volume < 703 * one_volume / 30


def test_heads_move_as_configured():
    config = SimulateConfig(n_subjects=25, n_runs=5, volume_scale=1, voxel_size_mm=20, transforms=True)
    brain = template_brain(config).coordinates_mm()
    degrees, shifts, displacement = [], [], []
    for subject in (0, 8, 16, 24):
        head = draw_head(config, subject, brain)
        for run in run_designs(config):
            position = draw_position(config, subject, run, head)
            motion = position.volume_from_boldref
            center = position.boldref_from_t1w @ [*head.center_mm, 1]
            shifts.append((motion @ center)[:, :3] - center[:3])
            angles = np.stack([motion[:, 2, 1], -motion[:, 2, 0], motion[:, 1, 0]], axis=-1)
            degrees.append(np.rad2deg(angles))
            steps = np.abs(np.diff(shifts[-1], axis=0)).sum(1) + 50 * np.abs(np.diff(angles, axis=0)).sum(1)
            displacement.append(steps)
    # The parameters are correlated over a minute: removing the run's mean removes some of their variance.
    for parameters in (shifts, degrees):
        assert np.concatenate(parameters).std() == pytest.approx(0.3, rel=0.12)
    framewise = np.concatenate(displacement)
    assert 0.04 < np.median(framewise) < 0.15
    assert 0.002 < (framewise > 0.5).mean() < 0.02
