"""Draws depend on seed and key alone."""

from titan_neuro.seeds import keyed_generator


def test_draws_depend_on_seed_and_key():
    first = keyed_generator(0, "sub-01_task-x").integers(1000, size=5).tolist()
    # The same in every process: hash() of a string is not.
    assert first == keyed_generator(0, "sub-01_task-x").integers(1000, size=5).tolist()
    assert first != keyed_generator(1, "sub-01_task-x").integers(1000, size=5).tolist()
    assert first != keyed_generator(0, "sub-02_task-x").integers(1000, size=5).tolist()
