"""`python -m tests.soak`: the soak for as long as one likes."""

import argparse
import sys

from tests.soak.run import main

parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
parser.add_argument("--minutes", type=float, default=60.0, help="how long to load (60)")
parser.add_argument("--adapters", type=int, default=50, help="how many adapters (50)")
given = parser.parse_args()
main(given.minutes, given.adapters)
sys.exit(0)
