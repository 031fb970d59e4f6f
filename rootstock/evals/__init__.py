"""Evals: what is measured, by which criteria, on which items, and what came of it. Knows no HTTP and asks no model.

`definitions` are the evals, `runs` the life of one measurement, `items` what became of each item, `criteria` and
`sources` the two things that a run brings together: graders and lines.
"""
