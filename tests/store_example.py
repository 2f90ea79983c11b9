"""Name, shape and events of the run in these tests, and a torch dataset of its windows."""

import math
import os

import torch

SHAPE, N_TIME_POINTS = (5, 6, 7), 150
NAME = "sub-01/func/sub-01_task-movie_run-01_desc-prepared_bold.zarr"
EVENTS = ((0.0, 90.5, "movie"), (120.25, math.nan, "recall"))


class Windows(torch.utils.data.Dataset):
    def __init__(self, view):
        self.view = view

    def __len__(self):
        return (N_TIME_POINTS - 20) // 10

    def __getitem__(self, index):
        start = 10 * index
        return os.getpid(), self.view.read(start, start + 20)
