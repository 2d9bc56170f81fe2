"""Step 1: from a slide to its patches, their labels and their features.

To be read in this order: `tiff` decodes tiles, `reading` opens slides and reads patches, `canvas`, `plots` and
`heatmaps` draw them. `options`, `pen`, `tissue` and `coordinates` choose the patches of a slide, `encoders` and
`prepare` make features of them, `thumbnails` shows what was chosen. `masks` and `annotations` read what a pathologist
drew, `labels` makes patch labels of it.
"""
