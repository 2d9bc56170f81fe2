"""Where slides and features come from.

`camelyon16` is the public data set as a table, with what is known about each slide. `shared` brings features that
others have made into TRIDENT's layout: `files` reads theirs, `places` finds where the patches lie.
"""
