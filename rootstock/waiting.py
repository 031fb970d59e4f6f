"""Whether anything waits for a batch worker, of whatever kind: then long work lets it have its turn."""

from rootstock import batches, distillations
from rootstock.db import Tx
from rootstock.evals import runs


def another(tx: Tx) -> bool:
    """Whether a worker that let go of its work would get other work."""
    return batches.another_waits(tx) or distillations.another_waits(tx) or runs.another_waits(tx)
