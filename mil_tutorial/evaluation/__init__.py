"""Step 5, how good a model is on bags it has not seen: metrics with intervals, calibration, comparison of models."""
