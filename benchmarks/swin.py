"""Time and memory of the Swin tokenizer, relative to MONAI's own pass over whole volumes.

    OMP_NUM_THREADS=1 python benchmarks/swin.py            # a grid of 2 mm, in about three minutes
    OMP_NUM_THREADS=1 python benchmarks/swin.py --quick    # a small grid, in seconds: does it run?

Both sides have the same weights, encode volumes one at a time, and pool the same five maps. Before anything is timed,
maps and gradients are compared. MONAI's transformer has its fused attention, which it uses where nothing is learned.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import (
    BenchmarkError,
    Result,
    alternate,
    in_fresh_process,
    peak_growth_bytes,
    run_benchmark,
    use_one_thread,
    warm_heap,
)
from torch import Tensor

from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig

CONFIG = SwinTokenizerConfig(embed_dim=24, depths=(2, 2, 2, 2), token_grid=(3, 3, 3))
"""That of `pipelines/budapest.yaml`."""
GRIDS = {"2 mm": ((99, 117, 95), (34.5, 43.5, 38.0)), "quick": ((30, 36, 30), (11.0, 13.0, 11.0))}
"""Voxels along each axis, and half axes of an ellipsoid with the extent of a brain."""
ERROR_LIMIT = 1e-5
"""Of a map's largest value, pooled in float64; and of a gradient's largest value."""


class MonaiTokenizer(SwinTokenizer):
    """The same features, by MONAI's pass over the whole grid, all volumes of a call at once."""

    def _encode(self, series: Tensor) -> Tensor:
        return pool(self, maps_of(self, series))


def maps_of(tokenizer: SwinTokenizer, series: Tensor) -> list[Tensor]:
    """MONAI's five maps of whole volumes."""
    volumes = series.new_zeros(len(series), 1, *tokenizer.mask.shape)
    volumes[:, 0, tokenizer.mask] = series
    maps: list[Tensor] = tokenizer.swin(volumes)
    return maps


def pool(tokenizer: SwinTokenizer, maps: Sequence[Tensor]) -> Tensor:
    """Average maps over the cells of the grid: ``(volumes, tokens, channels of all maps)``."""
    pooled = [F.adaptive_avg_pool3d(values, tokenizer.token_grid) for values in maps]
    return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)


def brain(grid: str) -> Tensor:
    """Return an ellipsoid for a mask, bool ``(x, y, z)``; 22 % of the grid of 2 mm."""
    shape, half_axes = GRIDS[grid]
    axes = [((torch.arange(n) - (n - 1) / 2) / half).square() for n, half in zip(shape, half_axes, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x + y + z < 1


def sides(grid: str) -> dict[str, SwinTokenizer]:
    """Both tokenizers, with the same weights."""
    torch.manual_seed(0)
    mask = brain(grid)
    made = {"ours": SwinTokenizer(CONFIG, mask, 32), "monai": MonaiTokenizer(CONFIG, mask, 32)}
    with torch.no_grad():
        for parameter in made["ours"].swin.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    made["monai"].load_state_dict(made["ours"].state_dict())
    for module in made["monai"].modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = True
    return made


def a_volume(tokenizer: SwinTokenizer) -> Tensor:
    """One time point of noise, ``(1, 1, voxels)``."""
    return torch.randn(1, 1, tokenizer.n_features, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def forward(tokenizer: SwinTokenizer, series: Tensor) -> None:
    """Encode where nothing is learned."""
    tokenizer.features(series)


def forward_backward(tokenizer: SwinTokenizer, series: Tensor) -> None:
    """Encode, and compute all gradients."""
    tokenizer.zero_grad(set_to_none=True)
    tokenizer.features(series).square().mean().backward()


PASSES: dict[str, tuple[Callable[[SwinTokenizer, Tensor], None], float, float]] = {
    "forward": (forward, 4.0, 6.0),
    "forward + backward": (forward_backward, 3.0, 4.0),
}
"""Each pass with reach and aim of its speed."""


def check(made: dict[str, SwinTokenizer]) -> dict[str, float]:
    """Compare each map, and the gradient of each parameter.

    Returns
    -------
    dict
        The greatest differences, relative to the largest value of their map or gradient.

    Raises
    ------
    BenchmarkError
        One is greater than `ERROR_LIMIT`.
    """
    mine, theirs = made["ours"], made["monai"]
    series = a_volume(mine)
    with torch.no_grad():
        expected = pool(theirs, [values.double() for values in maps_of(theirs, series[0])])
        found = mine.features(series)[0].double()
    worst = {
        "maps": _worst(zip(*(values.split(CONFIG.map_widths, dim=-1) for values in (found, expected)), strict=True))
    }
    for tokenizer in made.values():
        forward_backward(tokenizer, series)
    gradients = [[value.grad for value in tokenizer.swin.parameters()] for tokenizer in (mine, theirs)]
    worst["gradients"] = _worst(zip(*gradients, strict=True))
    if not max(worst.values()) <= ERROR_LIMIT:
        raise BenchmarkError(
            f"differences from MONAI: expected at most {ERROR_LIMIT}, found {worst}. Nothing is timed."
        )
    return worst


def _worst(pairs: Any) -> float:
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def growth_of(side: str, grid: str, name: str) -> int:
    """Peak memory of a pass; for a process of its own."""
    use_one_thread()
    tokenizer = sides(grid)[side]
    call = functools.partial(PASSES[name][0], tokenizer, a_volume(tokenizer))
    small = MonaiTokenizer if side == "monai" else SwinTokenizer
    warm = small(CONFIG, torch.ones(16, 16, 16, dtype=torch.bool), 32)
    PASSES[name][0](warm, a_volume(warm))
    tokenizer.zero_grad(set_to_none=True)
    return peak_growth_bytes(call)


def measure(grid: str, seconds: float) -> Iterator[Result]:
    """Time both passes in turns, then measure their memory."""
    made = sides(grid)
    series = a_volume(made["ours"])
    for name, (call, reach, aim) in PASSES.items():
        found = alternate({side: functools.partial(call, it, series) for side, it in made.items()}, seconds=seconds)
        times = {side: line["min_s"] for side, line in found.items()}
        yield Result(
            row=name,
            case=f"{grid}: time of MONAI's pass over ours",
            found=times["monai"] / times["ours"],
            reach=reach,
            aim=aim,
            note=f"{times['ours'] * 1e3:,.0f} ms a volume, MONAI {times['monai'] * 1e3:,.0f} ms",
            details=found,
        )
    for name in PASSES:
        grown = {side: in_fresh_process(growth_of, side=side, grid=grid, name=name) for side in made}
        yield Result(
            row="memory",
            case=f"{grid}, {name}: growth of the peak, ours over MONAI's",
            found=grown["ours"] / grown["monai"],
            reach=0.2,
            aim=0.1,
            is_lower_better=True,
            note=f"{grown['ours'] / 1e6:,.0f} MB, MONAI {grown['monai'] / 1e6:,.0f} MB",
            details=grown,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    parser = argparse.ArgumentParser(description="Time and memory of the Swin tokenizer, relative to MONAI's.")
    parser.add_argument("--quick", action="store_true", help="a small grid, in seconds")
    default = Path(__file__).parent / "results" / "swin.json"
    parser.add_argument("--output", type=Path, default=default, metavar="FILE", help="JSON; Markdown goes beside it")
    arguments = parser.parse_args(argv)
    grid, seconds = ("quick", 0.0) if arguments.quick else ("2 mm", 25.0)

    def run() -> tuple[list[Result], dict[str, Any]]:
        use_one_thread()
        warm_heap()
        gate, mask = check(sides(grid)), brain(grid)
        how = (
            "one thread, float32, a volume at a time; the sides alternate in one process (minima of processor time); "
            "memory in a process for each side and pass; MONAI with fused attention where nothing is learned"
        )
        share = f"{' x '.join(map(str, mask.shape))} voxels, {float(mask.float().mean()):.3f} in the mask"
        return list(measure(grid, seconds)), {"how": how, "grid": share, "gate": gate}

    return run_benchmark("The Swin tokenizer relative to MONAI's pass", arguments.output, run, argv)


if __name__ == "__main__":
    sys.exit(main())
