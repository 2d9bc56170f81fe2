"""Step 6, from patch scores to places: comparable scores, detections, FROC, and files that other programs read."""
