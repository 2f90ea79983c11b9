"""The recall tasks need more than the window, and the benchmark writes its results."""

import json

import memory_tasks
import pytest
import torch


@pytest.fixture(params=memory_tasks.TASKS)
def task(request):
    return memory_tasks.TASKS[request.param]


@pytest.mark.parametrize("length", [36, 48, 192])
def test_answers_occur_once_and_far_back(task, length):
    ids, targets = task(torch.Generator().manual_seed(0), 16, length)
    is_asked = targets != memory_tasks.IGNORED
    assert is_asked.any(dim=1).all()
    for item, place in is_asked.nonzero().tolist():
        question, answer = ids[item, place], targets[item, place]
        position_of_key = (ids[item, :place] == question).nonzero().flatten()
        assert position_of_key.numel() == 1
        assert ids[item, position_of_key + 1] == answer
        assert place - (int(position_of_key) + 1) >= memory_tasks.DISTANCE


def test_no_question_depends_on_filler(task):
    ids, targets = task(torch.Generator().manual_seed(0), 16, 192)
    is_filler, is_asked = memory_tasks.is_filler(ids, targets), targets != memory_tasks.IGNORED
    assert is_filler.float().mean() > 0.5
    assert not (is_filler & is_asked).any()
    for item, place in is_asked.nonzero().tolist():
        position_of_key = int((ids[item, :place] == ids[item, place]).nonzero())
        assert not is_filler[item, position_of_key : position_of_key + 2].any()


@pytest.mark.parametrize("name", memory_tasks.WITH_MEMORY)
def test_closed_gates_leave_the_memory_unchanged(name):
    torch.manual_seed(0)
    model = memory_tasks.build(name)
    ids = torch.randint(memory_tasks.N_SYMBOLS, (2, 40))

    def weights(places, ids=ids):
        with torch.no_grad(), memory_tasks.closed_gates(model, places):
            state = model(ids, return_state=True)[1].blocks[0].memory.memory
        return state.weights

    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    written, unwritten = (
        (weights(places)[0] - weights(places, ids.flip(1))[0]).abs().max() for places in (nowhere, ~nowhere)
    )
    # What MAL's persistent tokens set in motion goes on, and how fast it fades depends on the tokens.
    assert unwritten <= (0.05 * written if name == "MAL" else 0)
    once = nowhere.clone()
    once[1, 20] = True
    one, other = weights(nowhere)[0], weights(once)[0]
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_the_window_model_can_not_see_the_answers():
    torch.manual_seed(0)
    model = memory_tasks.build(memory_tasks.WINDOW_MODEL).double()
    ids = torch.randint(memory_tasks.N_SYMBOLS, (1, 40))
    changed = ids.clone()
    changed[0, 40 - 1 - memory_tasks.DISTANCE] = memory_tasks.SEPARATOR
    with torch.no_grad():
        assert torch.equal(model(ids)[0, -1], model(changed)[0, -1])
        changed[0, 40 - memory_tasks.WINDOW] = memory_tasks.SEPARATOR
        assert not torch.equal(model(ids)[0, -1], model(changed)[0, -1])


def test_the_window_model_is_not_smaller():
    sizes = {name: sum(p.numel() for p in memory_tasks.build(name).parameters()) for name in memory_tasks.MODELS}
    assert max(sizes.values()) == sizes[memory_tasks.WINDOW_MODEL]


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_command_writes_a_table(in_process, tmp_path, capsys, monkeypatch):
    if in_process:
        monkeypatch.setattr(memory_tasks, "_run_all", lambda trials, n_processes: map(memory_tasks.run, trials))
        monkeypatch.setattr(memory_tasks, "use_one_thread", lambda: None)
        monkeypatch.setattr(memory_tasks, "N_EVALUATED", memory_tasks.BATCH_SIZE)
    target = tmp_path / "tasks.json"
    memory_tasks.main(
        ["--tasks", "induction heads", "--models", "LMM", "window", "--steps", "2", "--output", str(target)]
    )
    results = json.loads(target.read_text())["results"]
    assert [result["model"] for result in results] == ["LMM", "window"]
    assert all(0 <= share <= 1 for result in results for share in result["accuracy"].values())
    table = target.with_suffix(".md").read_text().splitlines()
    assert sum(line.startswith("| induction heads") for line in table) == len(memory_tasks.LENGTHS)
    assert "induction heads" in capsys.readouterr().out
