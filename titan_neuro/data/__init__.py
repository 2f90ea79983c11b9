"""From a BIDS dataset to model-ready time points: fetch, find, prepare, store, split; and the simulator. No models."""
