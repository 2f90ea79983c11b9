"""What the run of these tests is like."""

import math

SHAPE, N_FRAMES = (5, 6, 7), 150
NAME = "sub-01/func/sub-01_task-movie_run-01_desc-prepared_bold.zarr"
EVENTS = ((0.0, 90.5, "movie"), (120.25, math.nan, "recall"))
