"""What is solved in closed form over streams: ridge, autoregression, sufficient statistics, components."""
