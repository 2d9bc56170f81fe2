"""Where slides and features come from: the public CAMELYON16 from the servers that publish it, or other people's files.

`camelyon16` is the data set as a table, with what is known about each slide. `bucket` has the addresses of slides,
masks and annotations, `sets` those of published features, `choice` picks slides, `fetch` makes a data root of them.
`shared` brings features that others have made into TRIDENT's layout: `files` reads theirs, `places` finds the patches.
"""

FETCHED = "CAMELYON16.json"  # marks a data root that was fetched, and says from where
