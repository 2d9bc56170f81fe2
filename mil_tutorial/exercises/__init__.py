"""The exercises of the notebooks: one module a notebook, one check an exercise; quizzes, and what is remembered.

A notebook says `from mil_tutorial.exercises import notebook_1 as check` and asks `check.patches_above(patches_above)`.
Every sentence that a learner reads comes from `texts/`, in one file for each notebook and language.
"""
