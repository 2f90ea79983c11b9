"""The closed-form fit on planted stimuli and on noise."""

import dataclasses

import numpy as np
import pytest
import torch
from recall_runs import LOOKAHEAD, N_FEATURES, N_SOURCES, RECALL, recall_runs, skills, small_forecaster
from stimulus_runs import ar1_noise, as_run

from titan_neuro.forecaster import LookaheadConfig, RecallConfig
from titan_neuro.forecaster.fit import fit_closed_form
from titan_neuro.forecaster.fit.aligned_subjects import align_subjects
from titan_neuro.forecaster.fit.components import ComponentRun, find_components, project_runs
from titan_neuro.forecaster.fit.memory_runs import OutputSums
from titan_neuro.forecaster.fit.stimulus_memory import CHOICE_TIME_POINTS, runs_for_choices
from titan_neuro.linear.autoregression import fit_autoregression


def fit(runs, horizons=(1, 3), **options):
    model = small_forecaster(horizons, **options)
    model.fit(runs)
    return model


def find_positions(model, run):
    """The likeliest position in the stimulus at each time point, by the other subjects' average."""
    stimulus = model.recall.stimulus
    _, seen, _ = model.observe(run.series[None], model.init_state(1).observation)
    probabilities, _ = stimulus.locate(
        seen.errors[:, :, 0], stimulus.init_state(1), model.held_out_index([run.key])[:, 0]
    )
    return probabilities[0].argmax(dim=1)


def test_stimulus_and_memory_help_a_new_subject(truth, fitted):
    _, test = truth
    frozen, live = skills(fitted, test, memory_frozen=True), skills(fitted, test)
    assert min(frozen) > 0.15
    assert all(more > less + 0.1 for more, less in zip(live, frozen, strict=True))
    assert (fitted.backbone.memory.associations.reliability.mean(dim=1) > 0.5).all()
    # The innovations of the noise can't be predicted.
    assert max(live) < 0.65


def test_memory_costs_nothing_where_subjects_respond_alike():
    runs = recall_runs(8, shared=0.35)
    model = fit(runs[:6])
    frozen, live = skills(model, runs[6:], memory_frozen=True), skills(model, runs[6:])
    assert min(frozen) > 0.25
    assert model.backbone.memory.associations.reliability.mean().item() < 0.1
    assert all(more > less - 0.003 for more, less in zip(live, frozen, strict=True))


def personal_dynamics(n_subjects, n_time_points=500):
    """Recordings without a stimulus: in each subject other features are followed by others, one time point later."""
    rng = np.random.default_rng(3)
    runs = []
    for subject in range(n_subjects):
        turn = np.linalg.qr(rng.normal(size=(N_FEATURES, N_FEATURES)))[0]
        series = rng.normal(size=(n_time_points, N_FEATURES))
        for t in range(1, n_time_points):
            series[t] = 0.6 * series[t - 1] @ turn + 0.8 * series[t]
        runs.append(as_run(series, f"sub-{subject:02}_task-rest"))
    return runs


def test_memory_learns_personal_dynamics_as_far_as_they_reach():
    runs = personal_dynamics(7)
    model, test = fit(runs[:6], (1, 2, 10)), runs[6:]
    live, frozen = skills(model, test), skills(model, test, memory_frozen=True)
    assert live[0] > frozen[0] + 0.05
    # Nothing reaches ten time points ahead, and nothing is lost there.
    assert live[2] > frozen[2] - 0.003
    assert model.backbone.memory.associations.reliability[2].mean().item() < 0.1


def test_disagreement_of_subjects_lowers_reliability():
    """Three components over four subjects: all agree; two and two are opposite; all agree, on next to nothing."""
    product = torch.tensor([[50.0, 80.0, 1.0], [52.0, -80.0, 1.0], [48.0, 80.0, 1.0], [50.0, -80.0, 1.0]])
    square, power = torch.full((4, 1, 3), 100.0), torch.full((1, 3), 0.5)
    gain = OutputSums(product[:, None].double(), square.double(), power.double()).reliability()[0]
    # The spread between the first's gains, 0.016, is less than independent time points would have: sqrt(0.5 / 400).
    expected = [0.5 - 0.5 * (0.5 / 400) ** 0.5, 0.0, 0.0]
    torch.testing.assert_close(gain, torch.tensor(expected).double())
    # Where subjects spread more than time points do, their spread counts.
    product[:, 0] = torch.tensor([40.0, 60.0, 40.0, 60.0])
    gain = OutputSums(product[:, None].double(), square.double(), power.double()).reliability()[0]
    assert gain[0].item() == pytest.approx(0.5 - 0.5 * 0.1 / 3**0.5)


@pytest.mark.parametrize(("autoregressive_lags", "key_lags"), [(1, 1), (1, 3), (3, 1)])
def test_one_lag_is_enough(truth, autoregressive_lags, key_lags):
    recall = dataclasses.replace(RECALL, autoregressive_lags=autoregressive_lags)
    train, test = truth
    model = fit(train, recall=recall, lookahead=dataclasses.replace(LOOKAHEAD, n_lags=key_lags))
    assert min(skills(model, test)) > 0.2


@pytest.mark.parametrize("horizons", [(1,), (3, 20)])
def test_any_horizons_can_be_fitted(truth, horizons):
    train, test = truth
    model = fit(train, horizons)
    frozen, live = skills(model, test, memory_frozen=True), skills(model, test)
    assert min(frozen) > 0.15
    assert all(more > less + 0.1 for more, less in zip(live, frozen, strict=True))


def test_noise_without_stimulus_has_no_skill():
    runs = recall_runs(8, shared=0.0)
    model = fit(runs[:6])
    assert model.recall.stimulus.n_positions == 0
    assert np.abs(skills(model, runs[6:])).max() < 0.01
    assert np.abs(skills(model, runs[6:], memory_frozen=True)).max() < 0.01


@pytest.mark.parametrize("n_subjects", [2, 4, 12])
def test_held_out_subjects_agree_by_no_chance(n_subjects):
    """Noise of 100 features, in which a few subjects agree in some directions by chance."""
    rng = np.random.default_rng(0)
    noise = [ar1_noise(rng, 400 // n_subjects + 40, 100, 0.6) for _ in range(n_subjects + 4)]
    runs = [as_run(series, f"sub-{number:02}_task-film") for number, series in enumerate(noise)]
    model = small_forecaster(n_features=100)
    model.fit(runs[:n_subjects])
    assert model.recall.stimulus.n_positions == 0
    held_out = [skills(model, [run], held_out_index=model.held_out_index([run.key])) for run in runs[:n_subjects]]
    assert np.mean(held_out, axis=0) == pytest.approx(skills(model, runs[n_subjects:]), abs=0.002)


def test_an_unknown_stimulus_costs_nothing():
    runs = recall_runs(8, shared=0.3, individual=0.25, stimuli=("task-a", "task-b"))
    model = fit([run for run in runs[:12] if run.stimulus == "task-a"])
    assert min(skills(model, [run for run in runs[12:] if run.stimulus == "task-a"])) > 0.3
    # The lengths of the keys are chosen where the stimulus is known; elsewhere that costs a little (decision 88).
    assert min(skills(model, [run for run in runs[12:] if run.stimulus == "task-b"])) > -0.015


def test_one_subject_has_no_stimulus_memory():
    runs = recall_runs(1, shared=0.35, stimuli=tuple(f"task-{letter}" for letter in "abcde"))
    model = fit(runs[:4])
    assert model.recall.stimulus.n_positions == 0
    assert min(skills(model, runs[4:])) > -0.01
    assert min(skills(fit(runs[:1]), runs[4:])) > -0.01


def test_autoregression_finds_a_planted_relation_of_features():
    rng = np.random.default_rng(0)
    runs = []
    for number in range(4):
        series = rng.normal(size=(250, N_FEATURES))
        for t in range(1, 250):
            # Feature i + 1 shows what feature i showed a time point before.
            series[t, 1:] = 0.8 * series[t - 1, :-1] + 0.6 * series[t, 1:]
        runs.append(as_run(series, f"sub-01_task-{number}"))
    model = fit(runs[:3], recall=RecallConfig(autoregressive_lags=3), lookahead=LookaheadConfig(n_lags=2))
    gained = skills(model, runs[3:], memory_frozen=True)
    # The map is the planted one: 0.64 and 0.8 ** 6 of the variance of all features but the first one or three.
    assert gained == pytest.approx([0.64 * 23 / 24, 0.8**6 * 21 / 24], abs=0.08)


def test_runs_of_different_lengths_and_starts_are_aligned(truth, fitted):
    cuts = [(0, 0), (3, 30), (6, 0), (1, 10), (0, 5), (4, 0), (2, 0), (5, 20)]
    cropped = [
        as_run(run.series[first : run.n_time_points - last].numpy(), run.key, 10 - first)
        for run, (first, last) in zip((*truth[0], *truth[1]), cuts, strict=True)
    ]
    model = fit(cropped[:6])
    # Positions are counted from the start of the stimulus.
    assert model.recall.stimulus.n_positions == 250 - 10
    for run, (first, _) in zip(cropped, cuts, strict=True):
        expected = torch.arange(run.n_time_points) + first - 10
        assert find_positions(model, run)[40:].equal(expected[40:])
    assert skills(model, cropped[6:]) == pytest.approx(skills(fitted, truth[1]), abs=0.04)


def test_stimuli_are_concatenated_and_distinguished():
    runs = recall_runs(6, shared=0.4, stimuli=("task-a", "task-b"), n_time_points=120)
    model = fit(runs[:10])
    assert model.recall.stimulus.continues.nonzero()[:, 0].tolist() == [*range(1, 110), *range(111, 220)]
    for run, begin in zip(runs, (0, 110) * 6, strict=True):
        assert find_positions(model, run)[40:].equal(torch.arange(begin + 30, begin + 110))


def test_time_before_the_stimulus_is_not_remembered():
    """Overlap: a run starts with the last time points of the run before, which is held out here."""
    whole = recall_runs(6, shared=0.5, n_time_points=260)
    # The last 20 time points of part a, then part b, of which alone something is scored.
    rest = [as_run(run.series[130:].numpy(), f"sub-0{number}_task-b", lead=20) for number, run in enumerate(whole)]
    test = as_run(whole[5].series[:150].numpy(), "sub-05_task-a", lead=136)
    # Were it remembered, as where it counts as part b, it would be predicted.
    known = fit([as_run(run.series.numpy(), run.key, lead=0) for run in rest[:5]])
    assert min(skills(known, [test], memory_frozen=True)) > 0.2
    model = fit(rest[:5])
    assert model.recall.stimulus.n_positions == 110
    assert max(skills(model, [test], memory_frozen=True)) < 0.05


def test_no_stimulus_is_remembered_for_another_stimulus(truth):
    train, test = truth
    model = small_forecaster()
    linear = fit_autoregression(train, model.horizons)
    model.linear_skip.load(linear)
    model.load_closed_form(fit_closed_form(RECALL, LOOKAHEAD, train, linear, stimulus_is_shared=False))
    assert model.recall.stimulus.n_positions == 0
    assert np.abs(skills(model, test, memory_frozen=True)).max() < 0.01


def test_choices_are_cross_validated_over_stimuli():
    """Each stimulus has different dynamics: what is learned from one does not hold in another."""
    rng = np.random.default_rng(5)
    runs = []
    for number in range(4):
        turn = np.linalg.qr(rng.normal(size=(N_FEATURES, N_FEATURES)))[0]
        for subject in range(5):
            series = rng.normal(size=(300, N_FEATURES))
            for t in range(1, len(series)):
                series[t] = 0.6 * series[t - 1] @ turn + 0.8 * series[t]
            runs.append(as_run(series, f"sub-{subject:02}_task-stimulus_run-{number}"))
    test = [run for run in runs if run.key == "sub-04_task-stimulus_run-3"]
    train = [run for run in runs if "sub-04" not in run.key and "run-3" not in run.key]
    model = small_forecaster()
    linear = fit_autoregression(train, model.horizons)
    model.linear_skip.load(linear)
    found = {}
    for stimulus_is_shared in (True, False):
        model.load_closed_form(fit_closed_form(RECALL, LOOKAHEAD, train, linear, stimulus_is_shared=stimulus_is_shared))
        found[stimulus_is_shared] = skills(model, test, memory_frozen=True)[0]
    folds = {
        run.stimulus: {model.fitted_runs[other.key][1] for other in train if other.stimulus == run.stimulus}
        for run in train
    }
    assert sorted(folds.values()) == [{0}, {1}, {2}]
    assert found[False] > found[True] + 0.02
    assert found[False] > -0.02


def test_choices_use_all_stimuli_and_many_subjects():
    parts = [(subject, part) for subject in range(17) for part in range(5)]
    runs = [
        ComponentRun(subject, 0, f"part-{part}", 0, torch.zeros(610, 1), torch.zeros(610, 1, 1), torch.ones(610).bool())
        for subject, part in parts
    ]
    chosen = [parts[index] for index in runs_for_choices(runs)]
    assert len(chosen) * 610 <= 1.1 * CHOICE_TIME_POINTS
    assert {part for _, part in chosen} == set(range(5))
    assert len({subject for subject, _ in chosen}) > 10


def test_a_subject_with_two_runs_counts_once(truth):
    first, *rest = truth[0][:3]
    twice = recall_runs(1, shared=0.0, seed=9)[0]
    twice = as_run(twice.series.numpy(), "sub-00_task-stimulus_run-2")
    twice.stimulus = first.stimulus
    linear = fit_autoregression([first, *rest], (1, 3))
    components = find_components(RECALL, [first, *rest], linear)
    projected = project_runs([first, twice, *rest], components.basis, linear)
    assert [run.subject for run in projected] == [0, 0, 1, 2]
    aligned = align_subjects(projected, 3, components)
    one, other, second, third = (run.series[10:] for run in projected)
    both = (one + other) / 2
    torch.testing.assert_close(aligned.average(aligned.series), (both + second + third) / 3)
    torch.testing.assert_close(aligned.average(aligned.series, {1}), (both + third) / 2)


def test_a_subject_with_another_stimulus_is_fitted(truth):
    train, test = truth
    stranger = as_run(recall_runs(1, shared=0.5, seed=9)[0].series.numpy(), "sub-90_task-other")
    model = fit([*train[:5], stranger])
    assert model.recall.stimulus.n_positions == 250 - 10
    assert min(skills(model, test)) > 0.3
    assert np.isfinite(skills(model, [stranger], held_out_index=model.held_out_index([stranger.key]))).all()


def test_fitting_is_deterministic(truth, fitted):
    again = small_forecaster()
    again.fit(truth[0])
    assert again.state_dict().keys() == fitted.state_dict().keys()
    for name, value in fitted.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("horizons", [(1, 3), (4,)])
def test_components_are_those_of_the_innovations(truth, fitted, horizons):
    model = fitted if fitted.horizons == horizons else fit(truth[0], horizons)
    errors = []
    for run in truth[0]:
        with torch.no_grad():
            forecasts, _, _ = model.forecast_parts(run.series[None])
        h, first = horizons[0], max(10, model.linear_skip.coefficients.shape[1] + horizons[0] - 1)
        errors.append((run.series[h:] - forecasts[0, :-h, 0])[first - h :])
    _, spread, expected = np.linalg.svd(torch.cat(errors).numpy(), full_matrices=False)
    found = (model.recall.innovation_directions @ model.components.basis).numpy()
    # The space of the strongest ones, whose order rounding can not change.
    n = 1 + int(np.argmax(spread[:12] / spread[1:13]))
    np.testing.assert_allclose(found[:n].T @ found[:n], expected[:n].T @ expected[:n], atol=1e-4)
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-4)


def test_basis_contains_the_sources_of_the_stimulus():
    runs = recall_runs(6, shared=0.5)
    width = 8
    model = fit(
        runs, recall=RecallConfig(width=width, n_components=N_SOURCES), lookahead=LookaheadConfig(n_components=4)
    )
    basis = model.components.basis.double()
    np.testing.assert_allclose(basis @ basis.T, np.eye(width), atol=1e-5)
    average = torch.stack([run.series for run in runs]).mean(0)[10:].double()
    _, _, sources = torch.linalg.svd(average, full_matrices=False)
    np.testing.assert_allclose(sources[:N_SOURCES] @ basis.T @ basis, sources[:N_SOURCES], atol=1e-4)


def test_constant_features_are_forecast_by_zero(truth):
    runs = []
    for run in (*truth[0], *truth[1]):
        series = run.series.clone()
        series[:, [3, 7]] = 0
        runs.append(as_run(series.numpy(), run.key))
    model = fit(runs[:6])
    assert min(skills(model, runs[6:])) > 0.3
    with torch.no_grad():
        _, beyond, _ = model.forecast_parts(runs[7].series[None])
    assert float(beyond[..., [3, 7]].abs().max()) < 1e-6
    silent = fit([as_run(np.zeros((60, N_FEATURES)), f"sub-0{number}_task-film") for number in range(3)])
    assert not silent(torch.zeros(1, 60, N_FEATURES))[0].any()


def test_a_run_may_be_shorter_than_the_horizon(truth):
    train, test = truth
    short = as_run(test[0].series[:8].numpy(), "sub-90_task-other", lead=2)
    assert min(skills(fit([*train, short], (1, 10)), test)) > 0.15


def test_the_stimulus_continues_after_some_runs_end():
    runs = recall_runs(10, shared=0.5)
    train = [run if number < 2 else as_run(run.series[:200].numpy(), run.key) for number, run in enumerate(runs[:8])]
    model = fit(train, (1, 20))
    removed = []
    with torch.no_grad():
        for first, stop in ((150, 200), (200, 220)):
            # Forecasts of these time points, made 20 time points before: of the second ones, while all runs still went
            # on.
            ends = [as_run(run.series[:stop].numpy(), run.key, lead=first) for run in runs[8:]]
            removed.append(skills(model, ends)[1])
    assert min(removed) > 0.3
