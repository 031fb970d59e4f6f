"""The batch worker: waits for the bell, claims batches, puts their lines to vLLM, stores results, writes the files.

A process of its own, beside the API and without HTTP. `process` is the main loop, `life` one claimed batch in it,
`asking` how a line is answered, `reading` the input, `writing` the files, `held` what keeps the batch ours.
"""
