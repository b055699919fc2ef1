"""`python -m tests.simulation.hunt`: how many seeds it takes to find each planted bug; the table in tests/README.md."""

import argparse
import logging
import sys
import time

from .plants import PLANTS
from .runs import simulate_all
from .simulation import Options

SECONDS = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.hunt", description=__doc__)
    parser.add_argument("plants", nargs="*", metavar="BUG", help=f"which (default: all): {', '.join(PLANTS)}")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
    parser.add_argument("--most", type=int, default=2000, metavar="N", help="seeds tried before a bug counts as not found")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.plants) - set(PLANTS))
    if unknown:
        parser.error(f"no plants {', '.join(unknown)}; there are {', '.join(PLANTS)}")
    logging.disable(logging.CRITICAL)
    print("| bug | what is wrong | profile | seeds | noticed as |\n|---|---|---|---|---|")
    missed = 0
    for name in arguments.plants or PLANTS:
        plant, started = PLANTS[name], time.monotonic()
        options = Options(profile=plant.profile, seconds=SECONDS, plant=name)
        runs = ((seed, options) for seed in range(arguments.first, arguments.first + arguments.most))
        found = next((outcome for _, outcome in simulate_all(runs, jobs=arguments.jobs) if outcome.kinds), None)
        missed += found is None
        needed = "not found" if found is None else str(found.seed - arguments.first + 1)
        kinds = "" if found is None else ", ".join(sorted(found.kinds))
        print(f"| `{name}` | {plant.what} | `{plant.profile}` | {needed} | {kinds} |", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
