"""A forecaster with a fitted recall: causal, streaming, saved and loaded, and without the subject that is left out."""

import copy

import pytest
import torch
from recall_runs import LOOKAHEAD, RECALL, skills, small_forecaster

from titan_neuro.errors import MismatchError
from titan_neuro.evaluation import check_causal, first_leak
from titan_neuro.forecaster.fit import ClosedFormFit, fit_closed_form
from titan_neuro.linear.autoregression import fit_autoregression
from titan_neuro.linear.running_averages import TIME_CONSTANTS
from titan_neuro.training.checkpoint import load_forecaster, save_forecaster


@pytest.fixture
def model(fitted):
    """The fitted forecaster with random weights where training would change them: no part forecasts 0."""
    model = copy.deepcopy(fitted)
    torch.manual_seed(1)
    with torch.no_grad():
        model.decoder.patterns.normal_(std=0.1)
    return model


@pytest.fixture
def series(truth):
    """Two streams of new subjects, from different positions on."""
    first, second = truth[1]
    return torch.stack([first.series[20:100], second.series[130:210]])


def test_an_untrained_model_equals_its_closed_form(truth, fitted):
    run, fitted = truth[1][0], copy.deepcopy(fitted)
    with torch.no_grad():
        linear, beyond, _ = fitted.forecast_parts(run.series[None])
        basis, memory = fitted.components.basis, fitted.backbone.memory
        errors = torch.zeros(1, run.n_time_points, 2, len(basis))
        for index, h in enumerate(fitted.horizons):
            left = run.series[h:] - linear[0, :-h, index]
            errors[0, h:, index] = left @ basis.T
        shown = run.series[None] @ basis.T
        recalled, _ = fitted.recall(shown, errors[:, :, 0], fitted.recall.init_state(1))
        corrections, _ = memory(shown, errors, recalled, memory.init_state(1))
    torch.testing.assert_close(beyond, (recalled.total + corrections) @ basis, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block_time_points", [16, 50, 64])
def test_recall_is_causal(model, truth, block_time_points):
    check_causal(model, truth[1][0], block_time_points)
    assert first_leak(model, truth[1][0].series, 99, 250) is None


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cuts", [(8,), (1, 2, 3, 30), tuple(range(5, 80, 5))])
@torch.no_grad()
def test_a_stream_may_be_cut_anywhere(model, series, cuts, frozen):
    held_out_index, state, parts = torch.tensor([[-1, -1], [3, 1]]), None, []
    for part in torch.tensor_split(series, cuts, dim=1):
        forecasts, state = model(part, state, memory_frozen=frozen, held_out_index=held_out_index)
        parts.append(forecasts)
    whole, _ = model(series, memory_frozen=frozen, held_out_index=held_out_index)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_restart_resets_one_stream_alone(model, series):
    _, state = model(series[:, :16])
    after, _ = model(series[:, 16:], model.restart(state, torch.tensor([True, False])))
    torch.testing.assert_close(after[0], model(series[:1, 16:])[0][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after[1], model(series)[0][1, 16:], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_saved_state_resumes_with_the_same_bits(model, series, tmp_path):
    expected, state = model(series[:, :37])
    torch.save(state.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    read = model.init_state(2).load_state_dict(saved)
    expected, _ = model(series[:, 37:], state)
    assert torch.equal(model(series[:, 37:], read)[0], expected)


@torch.no_grad()
def test_streams_of_a_batch_are_independent(model, series):
    torch.testing.assert_close(model(series)[0][:1], model(series[:1])[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_checkpoint_contains_the_stimulus_memory(model, truth, series, tmp_path):
    save_forecaster(tmp_path, model, {"data": {}})
    read, record = load_forecaster(tmp_path)
    assert record["config"]["recall"]["width"] == RECALL.width
    assert read.recall.stimulus.n_positions == 250 - 10
    assert torch.equal(read(series)[0], model(series)[0])
    # The training runs are not in the file.
    keys = ["sub-05_task-film", "sub-07_task-film"]
    assert read.held_out_index(keys).tolist() == [[-1, -1], [-1, -1]]
    assert model.held_out_index(keys).tolist() == [[5, 1], [-1, -1]]


def test_leaving_a_run_out_removes_its_advantage(fitted, truth):
    train, test = truth
    held_out, not_held_out = (
        torch.tensor([skills(fitted, [run], memory_frozen=True, held_out_index=index_of(run)) for run in train]).mean(0)
        for index_of in (lambda run: fitted.held_out_index([run.key]), lambda run: None)
    )
    gap = held_out - torch.tensor(skills(fitted, test, memory_frozen=True))
    assert (gap.abs() < 0.05).all()
    assert (not_held_out > held_out + 0.03).all()


def test_loading_a_fit_restores_all_of_it(fitted, series, truth):
    linear = fit_autoregression(truth[0], fitted.horizons)
    fit = fit_closed_form(RECALL, LOOKAHEAD, truth[0], linear)
    other = small_forecaster()
    other.linear_skip.load(linear)
    other.load_closed_form(ClosedFormFit.from_tensors(fit.tensors(), fit.runs))
    for name, value in fitted.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert other.fitted_runs == {f"sub-{number:02}_task-film": (number, number % 4) for number in range(6)}
    held_out_index = torch.tensor([[1, 1], [-1, -1]])
    with torch.no_grad():
        found, expected = (each.eval()(series, held_out_index=held_out_index)[0] for each in (other, fitted))
    assert torch.equal(found, expected)
    # The record does not share memory with the model.
    other.recall.stimulus.keys.zero_()
    assert fit.recall.stimulus.keys.any()


def test_a_fit_of_other_sizes_is_refused(fitted, truth):
    fit = fit_closed_form(RECALL, LOOKAHEAD, truth[0][:2], fit_autoregression(truth[0][:2], (1, 3, 5)))
    with pytest.raises(MismatchError, match=r"expected autoregression.weights \(2, 108, 24\), found \(3, 108, 24\)"):
        fitted.load_closed_form(fit)
    with pytest.raises(MismatchError, match=r"expected key_map \(2, 58, 58\), found \(3, 58, 58\)"):
        fitted.backbone.memory.load(fit.memory)


@pytest.mark.parametrize("recall", [None, RECALL], ids=["without recall", "not fitted"])
@torch.no_grad()
def test_an_unfitted_recall_forecasts_zero(series, recall):
    model = small_forecaster(recall=recall)
    _, beyond, _ = model.forecast_parts(series)
    assert not beyond.any()


def test_parameters_have_gradients_and_fits_stay(model, truth):
    run, before = truth[0][0], {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    _, beyond, _ = model.forecast_parts(
        run.series[None, :80], held_out_index=model.held_out_index(["sub-00_task-film"])
    )
    beyond.square().mean().backward()
    assert [name for name, part in model.named_parameters() if part.grad is None or not part.grad.any()] == []
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@torch.no_grad()
def test_the_memory_learns_errors_of_other_parts(model):
    memory = model.backbone.memory
    projected, errors = _random_input(model, 2, 80)
    recalled, _ = model.recall(projected, errors[:, :, 0], model.recall.init_state(2))
    memory = copy.deepcopy(memory)
    # The runs of the fit are too short to rely on it.
    memory.own_past.reliability.fill_(0.5)
    own, _ = memory.own_past(projected, errors, recalled.total, memory.own_past.init_state(2))
    assert own.any()
    recalled = recalled._replace(own=recalled.own + own)
    residual = errors.clone()
    for index, h in enumerate(model.horizons):
        for t in range(h, 80):
            residual[:, t, index] -= recalled.total[:, t - h, index]
    features, *_ = memory.key_features(projected, errors[:, :, 0], recalled, memory.init_state(2))
    expected, _ = memory.associations(features, residual, memory.associations.init_state(2))
    recalled = recalled._replace(own=recalled.own - own)
    found, _ = memory(projected, errors, recalled, memory.init_state(2))
    torch.testing.assert_close(found, own + expected, rtol=1e-4, atol=1e-4)
    # Frozen while it is empty, the memory adds nothing.
    assert not memory(projected, errors, recalled, memory.init_state(2), frozen=True)[0].any()


@torch.no_grad()
def test_features_are_as_fitted(fitted):
    """The features of the vector autoregression, and of the keys, time point by time point."""
    recall, memory = fitted.recall, fitted.backbone.memory
    projected, errors = _random_input(fitted, 1, 30)
    recalled, _ = recall(projected, errors[:, :, 0], recall.init_state(1))
    features = memory.key_features(projected, errors[:, :, 0], recalled, memory.init_state(1))[0][0]
    components = projected[0] @ recall.autoregression.directions.T
    in_keys = [values @ memory.directions.T for values in (projected[0], errors[0, :, 0], recalled.stimulus[0])]

    def back(values, t, n_lags):
        return [values[t - lag] if t >= lag else torch.zeros_like(values[0]) for lag in range(n_lags)]

    def averages(values, t):
        sums = []
        for span in TIME_CONSTANTS:
            weights = (1 - 1 / span) ** torch.arange(t, -1, -1) / span
            sums.append(span**0.5 * (weights[:, None] * values[: t + 1]).sum(0))
        return sums

    for t in (0, 1, 2, 17):
        past = [projected[0, t], errors[0, t, 0], *back(components, t, RECALL.autoregressive_lags)[1:]]
        own = torch.einsum("f,kfd->kd", torch.cat([*past, *averages(components, t)]), recall.autoregression.weights)
        series, innovations, from_stimulus = in_keys
        recent = back(innovations, t, LOOKAHEAD.n_lags)
        earlier = [values[: LOOKAHEAD.n_earlier_components] for values in recent[2:]]
        common = [series[t], *averages(series, t), *recent[:2], *earlier]
        for index in range(2):
            expected = torch.cat([*common, from_stimulus[t, index], own[index] @ memory.directions.T])
            torch.testing.assert_close(features[t, index], expected, rtol=1e-4, atol=1e-5)


def _random_input(model, n_streams, n_time_points):
    generator, width = torch.Generator().manual_seed(0), model.components.width
    shown = torch.randn(n_streams, n_time_points, width, generator=generator)
    return shown, torch.randn(n_streams, n_time_points, 2, width, generator=generator)
