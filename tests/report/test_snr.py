"""The temporal signal-to-noise ratio as a map: what was recorded is what is averaged and drawn."""

import json

import nibabel as nib
import numpy as np
from html_page import Page

from titan_neuro.report import read_results, write_report
from titan_neuro.report.brain import quality_figure
from titan_neuro.report.snr import snr_map


def write_snr(output, subject, run, values, affine):
    stem = output.root / f"sub-{subject}/func/sub-{subject}_task-movie_run-{run}_space-MNI_stat-tsnr_statmap"
    stem.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values.astype(np.float32), affine).to_filename(f"{stem}.nii.gz")
    stem.with_name(f"{stem.name}.json").write_text(json.dumps({"Space": "MNI152NLin2009cAsym"}))


def filled(output, value):
    return np.where(output.mask.get_fdata() > 0, value, np.nan)


def test_runs_are_averaged_within_people_first(output_folder):
    output = output_folder()
    for subject, run, value in (("01", 1, 20), ("01", 2, 40), ("02", 1, 70)):
        write_snr(output, subject, run, filled(output, value), output.mask.affine)
    results = read_results(output.root)
    assert snr_map(results)["caption"].startswith(
        "tSNR, mean over 2 subjects, 3 runs. Median 50; the lowest 10 % are below 50."
    )
    assert "tSNR of sub-01, 2 runs. Median 30;" in snr_map(results, "01")["caption"]
    assert snr_map(results, "03") is None


def test_a_voxel_that_some_runs_lack_has_the_mean_of_the_others(output_folder):
    output = output_folder()
    first, second = filled(output, 20.0), filled(output, 40.0)
    lost = np.isfinite(first) & (np.indices(first.shape)[0] < first.shape[0] // 2)
    second[lost] = np.nan
    for run, values in ((1, first), (2, second)):
        write_snr(output, "01", run, values, output.mask.affine)
    caption = snr_map(read_results(output.root))["caption"]
    kept = np.where(lost, 20.0, np.where(np.isfinite(first), 30.0, np.nan))
    assert f"Median {np.nanmedian(kept):.3g}; the lowest 10 % are below 20." in caption


def test_images_on_other_grids_are_not_averaged(output_folder):
    output = output_folder()
    write_snr(output, "01", 1, filled(output, 20), output.mask.affine)
    write_snr(output, "02", 1, filled(output, 20), output.mask.affine * 2)
    results = read_results(output.root)
    assert "do not lie on one grid" in snr_map(results)["empty"]
    assert "pictures" in snr_map(results, "01")


def test_it_is_drawn_pale_from_zero(output_folder):
    output = output_folder()
    figure = quality_figure(filled(output, 60.0), np.asarray(output.mask.affine), "tSNR", "note")
    [image, *_] = [image for axes in figure.axes for image in axes.images if image.cmap.name == "pale"]
    assert (image.norm.vmin, image.norm.vmax) == (0, 60)
    assert image.cmap([0.0, 1.0])[:, :3].min() > 0.6


def test_the_page_shows_it(output_folder):
    output = output_folder(subjects=("01",)).prepared()
    for run in (1, 2):
        write_snr(output, "01", run, filled(output, 60), output.mask.affine)
    page = Page(write_report(output.root).read_text(encoding="utf-8"))
    assert "tSNR, mean over 1 subject, 2 runs. Median 60;" in page.text
    assert [image["alt"] for image in page.all("img")] == [
        "Brain map: tSNR, mean over 1 subject. Median 60; the lowest 10 % are below 60."
    ]
