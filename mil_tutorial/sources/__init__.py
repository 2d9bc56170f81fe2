"""Where slides come from: the public CAMELYON16 as a table, and from the servers that publish it.

`camelyon16` is the data set as a table, with what is known about each slide. `bucket` has the addresses of slides,
masks and annotations, `sets` those of published features, `choice` picks slides, `fetch` makes a data root of them.
"""

FETCHED = "CAMELYON16.json"  # marks a data root that was fetched, and says from where
