import pytest
import torch

from titan_neuro.baselines import Persistence
from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation import check_causal, first_leak


class PeeksOneFrame(Persistence):
    """Inside a block, forecasts the next frame by the next frame."""

    name = "peeks"

    def step(self, frames, state):
        return super().step(torch.cat([frames[1:], frames[-1:]]), state)


class CentresBlocks(Persistence):
    """Takes each block's mean out, an honest-looking normalisation; a whisper of the future reaches every frame."""

    name = "centres"

    def step(self, frames, state):
        return super().step(frames - frames.mean(dim=0), state)


@pytest.mark.parametrize("block_frames", [16, 64, 100, 500])
def test_persistence_is_causal(make_run, block_frames):
    check_causal(Persistence((1, 3)), make_run("01", 1), block_frames)


@pytest.mark.parametrize("block_frames", [16, 64, 100, 107, 500])
@pytest.mark.parametrize("leaky", [PeeksOneFrame, CentresBlocks])
def test_a_model_that_looks_ahead_is_refused(make_run, leaky, block_frames):
    with pytest.raises(TitanNeuroError, match=rf"model {leaky.name} sees the future"):
        check_causal(leaky((1, 3)), make_run("01", 1), block_frames)


def test_the_first_frame_that_changed_is_found(make_run):
    frames = make_run("01", 1).frames
    assert first_leak(PeeksOneFrame((1,)), frames, 70, 64) == 70
    assert first_leak(CentresBlocks((1,)), frames, 70, 64) == 64
    assert first_leak(PeeksOneFrame((1,)), frames, 63, 64) is None


def test_a_leak_stops_the_benchmark(make_run, quick, score):
    with pytest.raises(TitanNeuroError, match="peeks sees the future"):
        score([PeeksOneFrame((1,))], [make_run("01", 1), make_run("02", 1)], [make_run("03", 1)], quick)
