"""`python -m tests.soak`: the soak for as long as one likes."""

import argparse
import sys

from tests.soak.run import LEAST_ADAPTERS, main

parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
parser.add_argument("--minutes", type=float, default=60.0, help="how long to load (60)")
parser.add_argument("--adapters", type=int, default=50, help="how many adapters (50)")
given = parser.parse_args()
if given.adapters < LEAST_ADAPTERS:
    parser.error(
        f"--adapters: at least {LEAST_ADAPTERS}, or what two replicas hold in memory does not fit on their disk"
    )
main(given.minutes, given.adapters)
sys.exit(0)
