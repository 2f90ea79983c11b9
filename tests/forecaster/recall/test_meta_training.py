"""The fit of the memory with the write rule of Titans: its start, and its meta-training."""

import dataclasses

import numpy as np
import torch
from own_dynamics import HORIZONS, WIDTH, own_dynamics
from recall_runs import LOOKAHEAD, RECALL, recall_runs, skills, small_forecaster

from titan_neuro.forecaster import LookaheadConfig
from titan_neuro.forecaster.fit import ClosedFormFit, fit_closed_form
from titan_neuro.forecaster.fit.memory_runs import Example, run_memory
from titan_neuro.forecaster.fit.meta_training import Stream, meta_train, stream_loss
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.titan.config import TitansRuleConfig
from titan_neuro.forecaster.titan.titans_memory import TitansMemoryFit
from titan_neuro.linear.autoregression import fit_autoregression

CONFIG = LookaheadConfig(
    n_components=WIDTH, n_lags=1, rule="titans", titans=TitansRuleConfig(key_width=2 * WIDTH, n_steps=30)
)


def make(config=CONFIG, step=-2.0):
    """A memory whose keys hold all components alike, with a step that is too short."""
    torch.manual_seed(0)
    memory = config.build(horizons=HORIZONS, width=WIDTH)
    memory.directions.copy_(torch.eye(WIDTH))
    keys = memory.associations.key_map
    start = dataclasses.replace(
        memory.associations.fitted(),
        key_map=torch.randn(keys.shape) / keys.shape[2] ** 0.5 / 10,
        gates=torch.tensor([-8.0, -3.0, step])[:, None].expand(-1, len(HORIZONS)),
        error_scale=torch.full((len(HORIZONS),), 4.0),
    )
    memory.associations.load(start)
    return memory


@torch.no_grad()
def mean_loss(memory, runs):
    return np.mean([float(stream_loss(Stream.unchanged(Example(memory, *run)))) for run in runs])


def test_meta_training_teaches_how_to_learn_new_people():
    memory, runs, new = make(), own_dynamics(8), own_dynamics(4, seed=1)
    examples, start = [Example(memory, *run) for run in runs], memory.associations.fitted()
    fit = meta_train(examples)
    assert all(
        torch.equal(one, other)
        for one, other in zip(memory.associations.fitted().tensors().values(), start.tensors().values(), strict=True)
    )
    # What the reliability alone gains is not counted.
    reliability = run_memory(memory.associations, examples).reliability().float()
    memory.associations.load(dataclasses.replace(start, reliability=reliability))
    before = mean_loss(memory, new)
    memory.associations.load(fit)
    assert mean_loss(memory, new) < before - 0.02
    same = {name for name, values in fit.tensors().items() if torch.equal(values, start.tensors()[name])}
    assert same <= {"error_scale", "reliability"}


def test_meta_training_depends_on_its_seed_alone():
    def train(seed):
        config = dataclasses.replace(CONFIG, titans=dataclasses.replace(CONFIG.titans, seed=seed, n_steps=2))
        memory = make(config, step=0.0)
        return meta_train([Example(memory, *run) for run in own_dynamics(8)])

    assert torch.equal(train(0).key_map, train(0).key_map)
    assert not torch.equal(train(0).key_map, train(1).key_map)


def test_rotated_errors_are_turned_back():
    """Without initial weights the memory learns as much in rotated errors."""
    memory = make()
    generator = torch.Generator().manual_seed(4)
    example = Example(memory, *own_dynamics(1)[0])
    whole, turned = Stream.unchanged(example), Stream.draw(example, generator)
    rotation = turned.value_rotation
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(WIDTH), rtol=1e-5, atol=1e-5)
    assert not rotation[:8, 8:].any()
    with torch.no_grad():
        torch.testing.assert_close(stream_loss(whole._replace(value_rotation=rotation)), stream_loss(whole))
        assert abs(stream_loss(whole._replace(key_rotation=turned.key_rotation)) - stream_loss(whole)) > 1e-4
        assert abs(stream_loss(whole._replace(gain=0.5)) - stream_loss(whole)) > 1e-4


def test_a_stimulus_can_be_taken_from_a_run():
    run, recalled = own_dynamics(1)[0]
    known = Recalled(torch.ones_like(recalled.own), torch.ones_like(recalled.own))
    unknown = Example(make(), run, known).without_stimulus()
    assert not unknown.recalled.stimulus.any()
    # After the first time points, of which there is no forecast, only what the own past told is missed less.
    torch.testing.assert_close(unknown.missed()[5:], run.errors[5:] - 1)


@torch.no_grad()
def test_the_rule_of_titans_helps_a_new_subject(truth):
    rule = TitansRuleConfig(key_width=48, n_steps=10)
    lookahead = dataclasses.replace(LOOKAHEAD, rule="titans", titans=rule)
    train, test = truth
    model, linear = small_forecaster(lookahead=lookahead), fit_autoregression(train, (1, 3))
    fit = fit_closed_form(RECALL, lookahead, train, linear)
    model.linear_skip.load(linear)
    # Read from tensors, as trainings do.
    model.load_closed_form(ClosedFormFit.from_tensors(fit.tensors(), fit.runs))
    frozen, live = skills(model, test, memory_frozen=True), skills(model, test)
    assert isinstance(fit.memory.associations, TitansMemoryFit)
    assert all(more > less + 0.03 for more, less in zip(live, frozen, strict=True))


def test_the_rule_of_titans_costs_nothing_in_noise():
    lookahead = dataclasses.replace(LOOKAHEAD, rule="titans", titans=TitansRuleConfig(key_width=48, n_steps=10))
    runs = recall_runs(8, shared=0.0)
    model = small_forecaster(lookahead=lookahead)
    model.fit(runs[:6])
    assert np.abs(skills(model, runs[6:])).max() < 0.01
