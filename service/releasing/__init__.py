"""Measuring tunes before they go out: the base while the job trains, the tune before the job succeeds.

Done by the batch worker, which is the process that puts much to vLLM. `taking` claims a release, `measuring` lives it,
`reading` makes the plan of the job's files, `asking` puts questions to a model, `telling` makes numbers of answers.
"""
