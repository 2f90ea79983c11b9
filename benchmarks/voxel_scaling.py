"""What scaling voxels before an atlas averages them is worth, on real images: ``prepare.voxel_scaling``.

``OMP_NUM_THREADS=1 python benchmarks/voxel_scaling.py haxby`` (or ``sherlock``) cuts the voxels of the recordings into
parcels by their positions, prepares the parcels with each scaling, and scores linear autoregression and the model after
its closed form on held-out runs or people. Each scaling makes other targets, so their scores are no measure of each
other alone; the reliability, which no model takes part in, stands beside them. Nothing is chosen by these numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from common import ROOT, provenance
from scipy.cluster.vq import kmeans2

from titan_neuro.data.store import RunStore
from titan_neuro.errors import ImageError
from titan_neuro.evaluation.formatting import markdown_table
from titan_neuro.metrics import pearson
from titan_neuro.study import Study
from titan_neuro.study.selection import Selection

SCALINGS = ("none", "psc", "zscore")
HORIZONS = (1, 2, 3, 6)
_RECORDINGS = ROOT.parent / "shared/data"
_SETTINGS = (
    *("seeds=[0]", "training.max_epochs=1", "training.steps_per_epoch=1", "comparison_models=false"),
    *("evaluation.rollout_every_time_points=0", f"model.horizons={list(HORIZONS)}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Recordings, their parcels and their folds.

    Attributes
    ----------
    recordings : str
        Folder in ``shared/data``.
    mask : str
        Pattern of the file whose voxels are cut into parcels.
    space : str
        Of the recordings, for the name of the atlas; empty for their own.
    n_parcels : int
    tasks : tuple of str
        Empty for all.
    settings : tuple of str
        As ``--set`` takes them.
    folds : tuple of int
    """

    recordings: str
    mask: str
    space: str
    n_parcels: int
    tasks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    folds: tuple[int, ...] = (1, 2, 3)


IMAGES = {
    "haxby": Images(
        recordings="haxby25mm",
        mask="derivatives/mask/sub-01/func/*_mask.nii.gz",
        space="",
        n_parcels=20,
        settings=("split.by=run", "split.n_folds=3"),
    ),
    "sherlock": Images(
        recordings="sherlock-pmc",
        mask="sub-01/func/*run-1*_mask.nii.gz",
        space="tpl-MNI152NLin6Asym_",
        n_parcels=30,
        tasks=("sherlock",),
        settings=("split.by=subject", "split.n_folds=3"),
        folds=(1,),
    ),
}


def write_atlas(mask: Path, folder: Path, space: str, n_parcels: int) -> Path:
    """Cut the voxels of a mask into parcels by k-means of their positions, and write them as an atlas."""
    image = nib.load(mask)
    inside = np.asarray(image.dataobj) > 0
    positions = np.argwhere(inside) @ image.affine[:3, :3].T
    _, parcels = kmeans2(positions, n_parcels, minit="++", seed=0)
    labels = np.zeros(inside.shape, dtype=np.int16)
    labels[inside] = parcels + 1
    path = folder / f"{space}atlas-Cut{n_parcels}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    return path


def reliability(runs: Sequence[RunStore]) -> float:
    """Correlation of a parcel's signal with that of other recordings of the same stimuli, mean over parcels.

    Of people: leave-one-out intersubject correlation. Of one person, whose runs have other stimuli at the same times:
    leave-one-run-out correlation, which is that of the response to any stimulus, and of drifts that all runs have.
    """
    groups: dict[str, list[np.ndarray]] = {}
    is_group = len({run.subject for run in runs}) > 1
    for run in runs:
        groups.setdefault(run.stimulus if is_group else "", []).append(run.series(0, run.n_time_points)[run.scored])
    return float(np.mean([intersubject_correlation(series) for series in groups.values()]))


def intersubject_correlation(series: Sequence[np.ndarray]) -> float:
    """Correlation of each subject with the mean of the others, mean over subjects and parcels.

    Parameters
    ----------
    series : sequence of numpy.ndarray
        ``(time, parcels)`` of each subject; longer ones are cut.
    """
    shortest = min(map(len, series))
    stack = np.stack([one[:shortest].astype(np.float64) for one in series])
    others = [(stack.sum(axis=0) - one) / (len(stack) - 1) for one in stack]
    return float(np.mean([_correlation(one, other) for one, other in zip(stack, others, strict=True)]))


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each column; stores hold half precision, whose squares overflow."""
    one, other = (series.astype(np.float64) - series.mean(axis=0, dtype=np.float64) for series in (one, other))
    return pearson((one * other).sum(axis=0), (one**2).sum(axis=0), (other**2).sum(axis=0))


def measure(images: Images, work: Path, scaling: str) -> list[str]:
    """Prepare, train and score the parcels with one scaling: a line of the table."""
    source = _RECORDINGS / images.recordings
    work.mkdir(parents=True, exist_ok=True)
    atlas = write_atlas(next(source.glob(images.mask)), work, images.space, images.n_parcels)
    study = Study.open(
        source,
        work / scaling,
        preset="parcels",
        selection=Selection(tasks=images.tasks or None),
        overrides=[*_SETTINGS, *images.settings, f"prepare.atlas={atlas}", f"prepare.voxel_scaling={scaling}"],
    )
    try:
        runs = study.prepare()
    except ImageError as error:
        return [scaling, f"refused: {str(error).partition('psc: ')[2].partition('.')[0]}", "-", "-", "-"]
    study.train(folds=images.folds)
    scores = study.evaluate(folds=images.folds).scores.set_index(["model", "lead_time_points"])
    r2, *skills = (
        " ".join(f"{scores.loc[(model, horizon), metric]:.3f}" for horizon in HORIZONS)
        for model, metric in (("ar", "r2"), ("titan-mac", "skill_ar"), ("var-online", "skill_ar"))
    )
    return [scaling, f"{reliability(runs):.3f}", r2, *skills]


def main(arguments: list[str]) -> None:
    """Print the table of one dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=IMAGES)
    parser.add_argument("--work-dir", type=Path, default=ROOT / "benchmarks/.work/voxel-scaling")
    options = parser.parse_args(arguments)
    work = (options.work_dir / options.name).absolute()
    lines = [measure(IMAGES[options.name], work, scaling) for scaling in SCALINGS]
    header = ["voxel_scaling", "reliability", "r2 of ar", "skill_ar of titan-mac", "skill_ar of var-online"]
    print(f"Commit {provenance(arguments)['commit']}; h = {', '.join(map(str, HORIZONS))}.\n")
    print(markdown_table(header, lines))


if __name__ == "__main__":
    main(sys.argv[1:])
