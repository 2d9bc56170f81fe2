"""The slides of the workshop, made for a projector from the package's own data. `make workshop` writes them.

look.py     the look: colours, the mark, what a slide is, the size of letters
page.py     slides -> one HTML file that opens without a network
course.py   data, models and scores that several slides show, each computed once
chapter1.py ... chapter6.py   the slides of a notebook
exercises.py   one slide for each exercise, and what to take home, from the notebooks themselves
"""
