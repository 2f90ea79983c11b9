import pytest
import torch

from titan_neuro.baselines import Persistence
from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation import check_causal, first_leak


class PeeksOneTimePoint(Persistence):
    """Inside a block, forecasts the next time point by the next time point."""

    name = "peeks"

    def step(self, series, state):
        return super().step(torch.cat([series[1:], series[-1:]]), state)


class CentersBlocks(Persistence):
    """Subtracts each block's mean, a common normalization, by which every time point depends on later ones."""

    name = "centers"

    def step(self, series, state):
        return super().step(series - series.mean(dim=0), state)


@pytest.mark.parametrize("block_time_points", [16, 64, 100, 500])
def test_persistence_is_causal(make_run, block_time_points):
    check_causal(Persistence((1, 3)), make_run("01", 1), block_time_points)


@pytest.mark.parametrize("block_time_points", [16, 64, 100, 107, 500])
@pytest.mark.parametrize("leaky", [PeeksOneTimePoint, CentersBlocks])
def test_a_model_that_looks_ahead_is_refused(make_run, leaky, block_time_points):
    with pytest.raises(TitanNeuroError, match=rf"model {leaky.name} looks ahead"):
        check_causal(leaky((1, 3)), make_run("01", 1), block_time_points)


def test_first_leaking_time_point_is_reported(make_run):
    series = make_run("01", 1).series
    assert first_leak(PeeksOneTimePoint((1,)), series, 70, 64) == 70
    assert first_leak(CentersBlocks((1,)), series, 70, 64) == 64
    assert first_leak(PeeksOneTimePoint((1,)), series, 63, 64) is None


def test_a_leak_stops_the_benchmark(make_run, quick, score):
    with pytest.raises(TitanNeuroError, match="peeks looks ahead"):
        score([PeeksOneTimePoint((1,))], [make_run("01", 1), make_run("02", 1)], [make_run("03", 1)], quick)
