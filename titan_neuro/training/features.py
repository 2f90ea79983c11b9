"""Features of a frozen Swin: computed once for each run, kept beside its store, read instead of its time points."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from titan_neuro.data.store import FeatureStore, RunView, feature_name, write_features
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError
from titan_neuro.files import file_lock
from titan_neuro.forecaster.tokenizers import SwinTokenizer

logger = logging.getLogger(__name__)

_FRAMES_AT_A_TIME = 64


def cached_features(
    runs: Sequence[RunView], tokenizer: SwinTokenizer, *, work_dir: Path, device: str = "cpu"
) -> dict[str, FeatureStore]:
    """Open the features that a frozen Swin makes of each run; compute those that are missing, stale or damaged.

    They lie beside the run's store, or in ``work_dir/features`` where that is an address. All that are used were
    compared with their checksums.

    Parameters
    ----------
    runs : sequence of RunView
    tokenizer : SwinTokenizer
        On the CPU, where it is put back.
    work_dir : Path
    device : {"cpu", "cuda", "cuda:N"}
        Where features are computed.

    Returns
    -------
    dict of str to FeatureStore
        By the key of the run.

    Raises
    ------
    ImageError
        A feature is not finite.
    OutputError
        The folder of a store can't be written.
    """
    encoder = encoder_digest(tokenizer)
    found = {}
    for run in tqdm(runs, desc="features", unit="run", disable=None):
        store = run.store
        source = {"key": run.key, "encoder": encoder, "run": store.sha256}
        folder = store.path.parent if isinstance(store.path, Path) else work_dir / "features"
        path = folder / feature_name(str(store.path).rstrip("/").rpartition("/")[2], encoder)
        with file_lock(path, work_dir=work_dir):
            found[run.key] = _whole(path, source) or _compute(path, source, run, tokenizer, device)
    return found


def encoder_digest(tokenizer: SwinTokenizer) -> str:
    """SHA-256 of what features follow from beside the time points: the Swin's weights, the mask, the tokens' grid."""
    digest = hashlib.sha256(repr((tokenizer.token_grid, tuple(tokenizer.mask.shape))).encode())
    tensors = {"mask": tokenizer.mask, **tokenizer.swin.state_dict()}
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.numpy())
    return digest.hexdigest()


def _whole(path: Path, source: dict[str, object]) -> FeatureStore | None:
    try:
        store = FeatureStore(path, source)
        store.verify()
    except InputNotFoundError:
        return None
    except (MismatchError, ImageError) as error:
        logger.warning("%s They are computed again.", error.message)
        return None
    return store


def _compute(
    path: Path, source: dict[str, object], run: RunView, tokenizer: SwinTokenizer, device: str
) -> FeatureStore:
    shape = (tokenizer.position.shape[0], sum(tokenizer.map_widths))
    write_features(path, source, _blocks(run, tokenizer.to(device), device), run.n_time_points, shape)
    tokenizer.to("cpu")
    return FeatureStore(path, source)


@torch.inference_mode()
def _blocks(run: RunView, tokenizer: SwinTokenizer, device: str) -> Iterator[np.ndarray]:
    for start in range(0, run.n_time_points, _FRAMES_AT_A_TIME):
        series = run.read(start, start + _FRAMES_AT_A_TIME).to(device)
        yield tokenizer.features(series[None])[0].cpu().numpy()
