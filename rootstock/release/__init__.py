"""What a tune is worth: measured against its base on examples it never saw, and on what it should not have forgotten.

`held_out` makes questions of examples, `metrics` picks how answers are scored, `baseline` is what answers are worth
that look at no question, `statistics` tells a difference from noise, `suites` are general questions, `verdict`
decides. Knows no rows, no stores, no HTTP and no torch.
"""
