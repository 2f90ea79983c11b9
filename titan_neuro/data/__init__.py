"""From a BIDS dataset to model-ready frames: fetch, find, prepare, store, split; and the simulator. No models."""
