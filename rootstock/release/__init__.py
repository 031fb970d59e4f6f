"""Is a tune better than prompting the model it was made from, and what did it forget?

`held_out` makes questions of examples, `metrics` picks how answers are scored, `baseline` is what answers are worth
that look at no question, `statistics` tells a difference from noise, `verdict` decides. Pure: knows no rows, no vLLM.
"""
