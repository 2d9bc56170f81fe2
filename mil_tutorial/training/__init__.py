"""Step 4 of the course: train a model, keep its best weights, predict.

`recipe` holds the defaults that everybody shares, and the split. `fit` is the loop, `predict` its use. `step` says
how one batch becomes a loss, `checkpoint` what is remembered between epochs, `checks` what is refused, `budget`
how much of it a lesson takes.
"""
