"""Distillations at work: a further kind of work of the batch worker, begun by `life.take`. Knows no routes."""
