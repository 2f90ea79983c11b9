import numpy as np

from titan_neuro.seeds import epoch_seed, fold_seed, named_generator


def test_draws_follow_from_seed_and_name():
    draws = {(seed, name): named_generator(seed, name).random() for seed in (0, 1) for name in ("sub-1", "sub-2")}
    assert len(set(draws.values())) == 4
    assert named_generator(0, "sub-1").random() == draws[0, "sub-1"]
    assert draws[0, "sub-1"] == np.random.default_rng([0, 504789047]).random()


def test_no_two_folds_or_epochs_share_a_seed():
    assert len({fold_seed(seed, fold) for seed in range(10) for fold in range(10)}) == 100
    assert len({epoch_seed(seed, epoch) for seed in range(10) for epoch in range(1000)}) == 10_000
    assert 0 <= fold_seed(0, 0) < 2**32
