"""What the forecaster recalls."""
