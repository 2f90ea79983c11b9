"""Features of a frozen Swin: computed once for each run, kept beside its store, and read instead of its time points."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from titan_neuro.data.store import FeatureStore, RunView, feature_name, write_features
from titan_neuro.files import load_or_make
from titan_neuro.forecaster.tokenizers import SwinTokenizer
from titan_neuro.runs import read_blocks

_BLOCK_TIME_POINTS = 64


def cached_features(
    runs: Sequence[RunView], tokenizer: SwinTokenizer, *, work_dir: Path, device: str = "cpu"
) -> dict[str, FeatureStore]:
    """Open the features that a frozen Swin makes of each run; compute those that are missing, outdated or damaged.

    They lie beside the run's store, or in ``work_dir/features`` where the store is at a remote address. All features
    are compared with their checksums first.

    Parameters
    ----------
    runs : sequence of RunView
    tokenizer : SwinTokenizer
        On the CPU, to which it returns.
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
    return {
        run.key: _load_or_compute(run, tokenizer, encoder, work_dir, device)
        for run in tqdm(runs, desc="features", unit="run", disable=None)
    }


def _load_or_compute(run: RunView, tokenizer: SwinTokenizer, encoder: str, work_dir: Path, device: str) -> FeatureStore:
    store = run.store
    source = {"key": run.key, "encoder": encoder, "run": store.sha256}
    folder = store.path.parent if isinstance(store.path, Path) else work_dir / "features"
    path = folder / feature_name(str(store.path).rstrip("/").rpartition("/")[2], encoder)

    def load() -> FeatureStore:
        features = FeatureStore(path, source)
        features.verify()
        return features

    def compute() -> None:
        shape = (tokenizer.position.shape[0], sum(tokenizer.map_widths))
        write_features(path, source, _blocks(run, tokenizer.to(device), device), run.n_time_points, shape)
        tokenizer.to("cpu")

    return load_or_make(path, work_dir=work_dir, load=load, make=compute)


def encoder_digest(tokenizer: SwinTokenizer) -> str:
    """Return the SHA-256 of what features depend on beside the run: the Swin's weights, the mask, the token grid."""
    digest = hashlib.sha256(repr((tokenizer.token_grid, tuple(tokenizer.mask.shape))).encode())
    tensors = {"mask": tokenizer.mask, **tokenizer.swin.state_dict()}
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.numpy())
    return digest.hexdigest()


@torch.inference_mode()
def _blocks(run: RunView, tokenizer: SwinTokenizer, device: str) -> Iterator[np.ndarray]:
    for _, series in read_blocks(run, _BLOCK_TIME_POINTS):
        yield tokenizer.features(series.to(device)[None])[0].cpu().numpy()
