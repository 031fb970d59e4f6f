"""The trainer as a service: waits for the bell, claims jobs, trains them one by one on the loaded base, stores results.

The only part of `trainer` that knows databases, stores and queues. `process` is the main loop, `job` the life of one
job in it, `lease` and `report` keep it ours and tell of it.
"""
