"""Whether anything waits for a batch worker, of whatever kind: then long work lets it have its turn."""

from rootstock import batches, distillations, releases
from rootstock.db import Tx
from rootstock.evals import runs


def another(tx: Tx) -> bool:
    """Whether a worker that let go of its work would get other work."""
    kinds = (batches.another_waits, releases.another_waits, distillations.another_waits, runs.another_waits)
    return any(waits(tx) for waits in kinds)
