"""Streams for the tests of a forecast memory, and how a memory is run over them."""

import torch

N_FEATURES, KEY_WIDTH, VALUE_WIDTH = 5, 4, 3


def draw(n_time_points, n_horizons=2, batch=2, dtype=torch.float64):
    """Draw key features and errors, ``(batch, time, horizons, ...)``."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((n_horizons, N_FEATURES), (n_horizons, VALUE_WIDTH))
    return [torch.randn(batch, n_time_points, *shape, generator=generator, dtype=dtype) for shape in shapes]


def run(layer, parts, cuts=(), frozen=False):
    """Run a memory over features and errors, cut into calls; what it reads, and its state."""
    state, found = layer.init_state(len(parts[0])), []
    for pieces in zip(*(torch.tensor_split(part, cuts, dim=1) for part in parts), strict=True):
        read, state = layer(*pieces, state, frozen=frozen)
        found.append(read)
    return torch.cat(found, dim=1), state
