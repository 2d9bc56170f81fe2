"""Ask a trained model about one slide file: `predict_slide`, and what it needs.

To be read in this order: `known` measures what the training slides are like, `trained` is the checkpoint that carries
it, `source` makes or finds the features of one slide, `answer` asks the models, `page` and `write` show what they said.
"""
