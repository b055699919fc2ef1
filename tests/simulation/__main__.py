"""`python -m tests.simulation`: one seed, many, or as many as fit into some minutes; a failing one prints the command that repeats it."""

import argparse
import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator

from .faults import PROFILES
from .simulation import Options, Outcome, Simulation


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation of the replicated log.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="one seed")
    which.add_argument("--seeds", metavar="A-B", help="a range of seeds")
    which.add_argument("--minutes", type=float, help="seeds from --from on, for so long")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="first seed with --minutes")
    parser.add_argument("--profile", choices=[*PROFILES, "all"], default="all", help="faults; all takes turns by seed")
    parser.add_argument("--ablate", default="", metavar="A,B", help="repairs switched off")
    parser.add_argument("--time", type=float, default=30.0, metavar="S", help="simulated seconds of faults in each run")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--trace", metavar="FILE", help="write the full trace there")
    parser.add_argument("--log", action="store_true", help="show what the replicas log")
    parser.add_argument("-v", dest="verbose", action="store_true", help="one line for each seed")
    return parser.parse_args()


def profile_of(seed: int, wanted: str) -> str:
    """`all` gives each seed a profile by turns, so that a seed alone always means the same run."""
    names = list(PROFILES)
    return names[seed % len(names)] if wanted == "all" else wanted


def _seeds(arguments: argparse.Namespace, started: float) -> Iterator[int]:
    if arguments.seed is not None:
        yield arguments.seed
    elif arguments.minutes is not None:
        yield from itertools.takewhile(lambda _: time.monotonic() - started < 60 * arguments.minutes, itertools.count(arguments.first))
    else:
        first, _, last = (arguments.seeds or "0-99").partition("-")
        yield from range(int(first), int(last or first) + 1)


def describe(outcome: Outcome) -> str:
    counts, answers = outcome.counts, outcome.answers
    faults = sum(n for kind, n in counts.items() if kind.startswith("fault-"))
    return (
        f"seed {outcome.seed} trace {outcome.trace[:16]} faults {faults} "
        f"done {answers.get('done', 0)} not-done {answers.get('not-done', 0)} "
        f"unknown {answers.get('unknown', 0)} reads {answers.get('reads-done', 0)}/{answers.get('reads', 0)} "
        f"restores {counts.get('restores', 0)} "
        f"snapshots {counts.get('snapshots', 0)} elections {outcome.elections} stale leader {outcome.stale_leader_s} s "
        f"worst gap {outcome.worst_gap_s} s {outcome.kinds or 'ok'}"
    )


def _repeat(arguments: argparse.Namespace, seed: int, profile: str) -> str:
    ablate = f" --ablate {arguments.ablate}" if arguments.ablate else ""
    members = f" --members {arguments.members}" if arguments.members != 3 else ""
    return f"python -m tests.simulation --seed {seed} --profile {profile} --time {arguments.time:g}{ablate}{members} -v"


def main() -> int:
    arguments, started = _arguments(), time.monotonic()
    if arguments.log:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    ablate = frozenset(filter(None, arguments.ablate.split(",")))
    kinds: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    runs, simulated, failed = 0, 0.0, 0
    for seed in _seeds(arguments, started):
        profile = profile_of(seed, arguments.profile)
        simulation = Simulation(
            seed,
            Options(profile=profile, seconds=arguments.time, members=arguments.members, ablate=ablate, keep_trace=bool(arguments.trace)),
        )
        outcome = simulation.run()
        runs, simulated = runs + 1, simulated + outcome.simulated_s
        kinds.update(dict.fromkeys(outcome.kinds, 1))
        totals.update(outcome.counts)
        totals.update(outcome.answers)
        totals["elections"] += outcome.elections
        totals["stale-leader-ms"] += int(1000 * outcome.stale_leader_s)
        if arguments.trace and simulation.world.trace is not None:
            with open(arguments.trace, "w", encoding="utf-8") as file:
                file.writelines(simulation.world.trace)
        if arguments.verbose or outcome.kinds:
            print(f"{profile}: {describe(outcome)}", flush=True)
        if outcome.kinds:
            failed += 1
            for violation in outcome.violations:
                print(f"    {violation.at:.3f} s {violation.kind}: {violation.detail}")
            print(f"    repeat: {_repeat(arguments, seed, profile)}", flush=True)
        elif sys.stderr.isatty():
            print(f"\r{runs} runs, {simulated:.0f} s simulated, {failed} failed", end="", file=sys.stderr)
    took = time.monotonic() - started
    print(
        f"{runs} runs, {simulated:.0f} s simulated in {took:.1f} s ({simulated / max(took, 0.001):.0f}x), "
        f"{failed} failed {dict(kinds) or ''}"
    )
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(totals.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
