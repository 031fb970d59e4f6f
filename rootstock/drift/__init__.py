"""Whether what a tuned model is asked, and what it answers, is still what it was trained on.

`sample` is one call, `features` makes numbers of texts, `profile` is what a training set is like as a list of events
with their rates, `detect` adds up calls and says when an event has become too frequent, `clusters` picks rows to show.
Knows no rows, no models, no HTTP.
"""
