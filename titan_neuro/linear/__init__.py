"""What is solved in closed form over streams: ridge, autoregression, sufficient statistics, components, averages.

Tensors and runs in, tensors and records out: nothing here reads files, draws progress bars or knows of neuroimaging.
"""
