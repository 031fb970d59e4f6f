"""The batch worker's other work: runs of evals, each item sampled and graded."""
