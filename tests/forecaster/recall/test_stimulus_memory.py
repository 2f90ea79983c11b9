"""The stimulus memory on planted stimuli: position and recall follow from the stream alone."""

import dataclasses

import pytest
import torch

from titan_neuro.forecaster.recall.stimulus_memory import LEADS, StimulusMemory, StimulusMemoryFit

WIDTH, N_COMPONENTS, HORIZONS, N_SUBJECTS = 8, 3, (1, 4), 4
LENGTHS = (60, 40)
N_POSITIONS = sum(LENGTHS)
WEIGHTS = (len(HORIZONS), len(LEADS) * N_COMPONENTS, WIDTH)


def randn(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def empty(n_positions=0, width=WIDTH):
    """A memory of so many positions, zeros throughout."""
    memory = StimulusMemory(n_components=N_COMPONENTS, horizons=HORIZONS, width=width)
    fit = StimulusMemoryFit.empty(n_components=N_COMPONENTS, n_horizons=len(HORIZONS), width=width)
    sizes = {"keys": (n_positions, width), "values": (n_positions, N_COMPONENTS), "continues": (n_positions,)}
    memory.load(dataclasses.replace(fit, **{name: torch.zeros(size) for name, size in sizes.items()}))
    return memory


def averages(keys, values, without=None):
    """Means over the subjects that are there, or over all but one."""
    others = [subject for subject in range(N_SUBJECTS) if subject != without]
    return keys[others].mean(0), values[others].mean(0)


def memory_of(keys, values):
    """A memory fitted to these subjects; the weights without each fold are drawn at random."""
    memory = empty()
    mean_keys, mean_values = averages(keys, values)
    without = [averages(keys, values, subject) for subject in range(N_SUBJECTS)]
    keys_without, values_without = map(torch.stack, zip(*without, strict=True))
    memory.load(
        StimulusMemoryFit(
            whitening=torch.eye(WIDTH),
            keys=mean_keys,
            values=mean_values,
            continues=torch.tensor([float(position not in (0, LENGTHS[0])) for position in range(N_POSITIONS)]),
            decay=torch.tensor(0.95),
            sharpness=torch.tensor(1.0),
            weights=0.3 * randn(*WEIGHTS, seed=20),
            whitening_without=torch.eye(WIDTH).expand(N_SUBJECTS, -1, -1),
            keys_without=keys_without,
            values_without=values_without,
            weights_without=0.3 * randn(2, *WEIGHTS, seed=21),
        )
    )
    return memory


@pytest.fixture
def tokens():
    """Keys and values of each subject: those of the stimulus, plus noise."""
    keys = randn(N_POSITIONS, WIDTH, seed=0) + 0.3 * randn(N_SUBJECTS, N_POSITIONS, WIDTH, seed=1)
    values = randn(N_POSITIONS, N_COMPONENTS, seed=2) + 0.1 * randn(N_SUBJECTS, N_POSITIONS, N_COMPONENTS, seed=3)
    return keys, values


@pytest.fixture
def memory(tokens):
    return memory_of(*tokens)


def recall(memory, stream, subjects=None, folds=None):
    recalled, _ = memory(stream, memory.init_state(len(stream)), subjects, folds)
    return recalled


def at_positions(memory):
    """The expected forecast from each position: a linear map of the stimulus about the targets."""
    stimulus, expected = (memory.continues == 0).cumsum(0).tolist(), torch.zeros(N_POSITIONS, len(HORIZONS), WIDTH)
    for position in range(N_POSITIONS):
        for index, horizon in enumerate(HORIZONS):
            shown = []
            for lead in LEADS:
                place = position + horizon + lead
                inside = 0 <= place < N_POSITIONS and stimulus[place] == stimulus[position]
                shown.append(memory.values[place] if inside else torch.zeros(N_COMPONENTS))
            expected[position, index] = torch.cat(shown) @ memory.weights[index]
    return expected


@pytest.mark.parametrize("start", [0, 17, 31, 62, 80])
def test_a_stream_finds_its_position_from_any_start(memory, start):
    stop = LENGTHS[0] if start < LENGTHS[0] else N_POSITIONS
    found = recall(memory, memory.keys[None, start:stop] + 0.5 * randn(1, stop - start, WIDTH, seed=4))
    torch.testing.assert_close(found[0, 6:], at_positions(memory)[start + 6 : stop], rtol=0, atol=0.04)


@pytest.mark.parametrize(("variance", "share"), [(1, 0.05), (2, 0.1)], ids=["noise alone", "another stimulus in noise"])
def test_an_unknown_stimulus_recalls_almost_nothing(memory, variance, share):
    known = memory.keys[None, :50] + randn(1, 50, WIDTH, seed=6)
    strength = recall(memory, known)[:, 6:].square().mean()
    assert strength > 0.8
    stream = variance**0.5 * randn(20, 100, WIDTH, seed=5)
    assert recall(memory, stream)[:, 6:].square().mean() < share * strength


def test_recall_fades_after_the_stimulus(memory):
    stream = torch.cat([memory.keys[None, :30], 2**0.5 * randn(1, 40, WIDTH, seed=7)], dim=1)
    found = recall(memory, stream).square().mean(dim=(0, 2, 3))
    assert found[10:30].mean() > 0.8
    assert found[45:].mean() < 0.1


@pytest.mark.parametrize(("subject", "fold"), [(0, 1), (3, 0), (2, -1), (-1, 1)])
def test_held_out_streams_use_the_fit_without_them(memory, tokens, subject, fold):
    expected = memory_of(*tokens)
    if subject >= 0:
        expected.keys, expected.values = averages(*tokens, without=subject)
    if fold >= 0:
        expected.weights.copy_(memory.weights_without[fold])
    stream = memory.keys[None] + 0.5 * randn(3, N_POSITIONS, WIDTH, seed=8)
    found = recall(memory, stream, torch.tensor([subject, -1, subject]), torch.tensor([fold, -1, fold]))
    torch.testing.assert_close(found[[0, 2]], recall(expected, stream[[0, 2]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], recall(memory, stream)[1])
    assert not torch.allclose(found[0], recall(memory, stream)[0], atol=1e-2)


def test_a_subject_does_not_reach_its_own_forecasts(memory, tokens):
    keys, values = (part.clone() for part in tokens)
    keys[1] = 5 * randn(N_POSITIONS, WIDTH, seed=9)
    values[1] *= -3
    stream, subject = tokens[0][[1]], torch.tensor([1])
    altered = memory_of(keys, values)
    torch.testing.assert_close(recall(altered, stream, subject), recall(memory, stream, subject), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(recall(altered, stream), recall(memory, stream), atol=0.1)


@pytest.mark.parametrize("cuts", [(1,), (5, 6, 40), tuple(range(1, 60))])
def test_a_stream_may_be_cut_anywhere(memory, cuts):
    stream = memory.keys[None, :60] + randn(2, 60, WIDTH, seed=10)
    held_out_index = torch.tensor([2, -1]), torch.tensor([-1, 1])
    evidence, parts = memory.init_state(2), []
    for part in torch.tensor_split(stream, cuts, dim=1):
        recalled, evidence = memory(part, evidence, *held_out_index)
        parts.append(recalled)
    torch.testing.assert_close(torch.cat(parts, dim=1), recall(memory, stream, *held_out_index), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("time_point", [0, 20, 58])
def test_later_time_points_change_no_recall(memory, time_point):
    stream = memory.keys[None, :60] + randn(2, 60, WIDTH, seed=11)
    later = stream.clone()
    later[:, time_point + 1 :] = 5 - later[:, time_point + 1 :]
    for subjects in (None, torch.tensor([0, 3])):
        before, after = (recall(memory, series, subjects) for series in (stream, later))
        assert torch.equal(before[:, : time_point + 1], after[:, : time_point + 1])
        assert not torch.equal(before[:, time_point + 1 :], after[:, time_point + 1 :])


@pytest.mark.parametrize("n_positions", [0, 7, 300])
def test_saved_memories_of_any_size_load(memory, n_positions):
    read = empty(n_positions)
    read.load_state_dict(memory.state_dict())
    stream = memory.keys[None, :50]
    assert torch.equal(recall(read, stream), recall(memory, stream))
    # Subjects are not saved: who reads a file has no training subject to leave out.
    assert torch.equal(recall(read, stream, torch.tensor([1]), torch.tensor([0])), recall(memory, stream))
    with pytest.raises(RuntimeError, match="size mismatch"):
        empty(n_positions, WIDTH + 1).load_state_dict(memory.state_dict())


def test_a_memory_without_stimuli_recalls_nothing(memory):
    found = recall(empty(0), memory.keys[None], torch.tensor([0]))
    assert torch.equal(found, torch.zeros(1, N_POSITIONS, len(HORIZONS), WIDTH))
    memory.load_state_dict(empty(0).state_dict())
    assert memory.n_positions == 0


def test_leave_one_out_fits_move_with_the_module(memory):
    stream, held_out_index = memory.keys[None, :50].double(), (torch.tensor([1]), torch.tensor([0]))
    expected = recall(memory, stream.float(), *held_out_index)
    found = recall(memory.to(torch.float64), stream, *held_out_index)
    held = (memory.keys_without, memory.values_without, memory.weights_without)
    assert {part.dtype for part in (*held, found)} == {torch.float64}
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    assert {part.device.type for part in (memory.to("meta").keys_without, memory.weights_without)} == {"meta"}
