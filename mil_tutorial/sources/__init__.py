"""Where slides come from: `camelyon16` is the public data set as a table, with what is known about each slide."""
