"""`python -m tests.simulation`: one seed, many, or as many as fit into some minutes; a failing one prints the command that repeats it."""

import argparse
import itertools
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .plants import PLANTS, planted
from .runs import PROFILES, build, mixed, profile_of, repeat_command, simulate_all
from .shrink import load, save, shrink
from .simulation import DENSE, DENSITIES, Options, Outcome

BAR = 30
MIXED = "mixed"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Deterministic simulation of the replicated log and of whole clusters."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="one seed")
    which.add_argument("--seeds", metavar="A-B", help="a range of seeds")
    which.add_argument("--minutes", type=float, help="seeds from --from on, for so long")
    which.add_argument("--replay", type=Path, metavar="FILE", help="play a kept transcript")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="first seed with --minutes")
    parser.add_argument("--profile", choices=[*PROFILES, "all"], default="all", help="faults; all takes turns by seed")
    parser.add_argument("--ablate", default="", metavar="A,B", help="repairs of the log layer switched off")
    parser.add_argument("--plant", choices=["", *PLANTS], default="", metavar="BUG", help=f"a planted bug: {', '.join(PLANTS)}")
    parser.add_argument("--time", type=float, default=30.0, metavar="S", help="simulated seconds of faults in each run")
    parser.add_argument(
        "--density", choices=[*DENSITIES, MIXED], default=DENSE,
        help="of faults and calls; mixed: every second run of the log is calm and 22 times as long",
    )
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--shrink", type=Path, metavar="FILE", help="find the few faults that matter; keep them as a transcript")
    parser.add_argument("--trace", metavar="FILE", help="write the full trace there (one seed)")
    parser.add_argument("--log", action="store_true", help="show what the production code logs")
    parser.add_argument("-v", dest="verbose", action="store_true", help="one line for each seed")
    return parser.parse_args()


def _seeds(arguments: argparse.Namespace, started: float) -> Iterator[int]:
    if arguments.seed is not None:
        yield arguments.seed
    elif arguments.minutes is not None:
        yield from itertools.takewhile(lambda _: time.monotonic() - started < 60 * arguments.minutes, itertools.count(arguments.first))
    else:
        first, last = _range(arguments)
        yield from range(first, last + 1)


def _range(arguments: argparse.Namespace) -> tuple[int, int]:
    first, _, last = (arguments.seeds or "0-99").partition("-")
    return int(first), int(last or first)


def describe(outcome: Outcome) -> str:
    counts, answers = outcome.counts, outcome.answers
    return (
        f"seed {outcome.seed} trace {outcome.trace[:16]} faults {faults_of(outcome)} "
        f"done {answers.get('done', 0)} not-done {answers.get('not-done', 0)} "
        f"unknown {answers.get('unknown', 0)} reads {answers.get('reads-done', 0)}/{answers.get('reads', 0)} "
        f"restores {counts.get('restores', 0)} "
        f"snapshots {counts.get('snapshots', 0)} elections {outcome.elections} stale leader {outcome.stale_leader_s} s "
        f"worst gap {outcome.worst_gap_s} s {outcome.kinds or 'ok'}"
    )


def faults_of(outcome: Outcome) -> int:
    """Everything that went wrong on purpose: faults that struck, and requests lost or repeated."""
    return sum(n for kind, n in outcome.counts.items() if kind.startswith(("fault-", "http-")))


@dataclass
class Campaign:
    """What the runs so far add up to."""

    started: float
    minutes: float | None
    wanted: int | None
    runs: int = 0
    failed: int = 0
    simulated_s: float = 0.0
    faults: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.failed += bool(outcome.kinds)
        self.simulated_s += outcome.simulated_s
        self.faults += faults_of(outcome)
        self.kinds.update(dict.fromkeys(outcome.kinds, 1))
        self.totals.update(outcome.counts)
        self.totals.update(outcome.answers)
        self.totals["elections"] += outcome.elections
        self.totals["stale-leader-ms"] += int(1000 * outcome.stale_leader_s)

    def summary(self) -> str:
        took = max(time.monotonic() - self.started, 0.001)
        return (
            f"{self.runs} runs, {self.simulated_s:.0f} s simulated in {took:.1f} s ({self.simulated_s / took:.0f}x), "
            f"{self.faults} faults, {self.failed} failed {dict(self.kinds) or ''}"
        )

    def bar(self) -> str:
        took = time.monotonic() - self.started
        share = took / (60 * self.minutes) if self.minutes else self.runs / max(self.wanted or 1, 1)
        full = round(BAR * min(1.0, share))
        return f"\r[{'#' * full}{'.' * (BAR - full)}] {self.summary()}"


def main() -> int:
    arguments, started = _arguments(), time.monotonic()
    if arguments.log:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    if arguments.replay is not None:
        transcript = load(arguments.replay)
        return _one(transcript.seed, transcript.options(), arguments, started)
    if arguments.seed is not None:
        return _one(arguments.seed, _options(arguments, arguments.seed), arguments, started)
    first, last = _range(arguments)
    campaign = Campaign(started=started, minutes=arguments.minutes, wanted=last + 1 - first)
    runs = ((seed, _options(arguments, seed)) for seed in _seeds(arguments, started))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a long campaign that is ended says what it did until then
    with suppress(KeyboardInterrupt):
        for options, outcome in simulate_all(runs, jobs=arguments.jobs):
            campaign.add(outcome)
            _report(options, outcome, verbose=arguments.verbose)
            if sys.stderr.isatty():
                print(campaign.bar(), end="", file=sys.stderr, flush=True)
    _sum_up(campaign)
    return 1 if campaign.failed else 0


def _options(arguments: argparse.Namespace, seed: int) -> Options:
    options = Options(
        profile=profile_of(seed, arguments.profile), seconds=arguments.time, members=arguments.members,
        ablate=frozenset(filter(None, arguments.ablate.split(","))), plant=arguments.plant, keep_trace=bool(arguments.trace),
        density=DENSE if arguments.density == MIXED else arguments.density,
    )
    return mixed(seed, options) if arguments.density == MIXED else options


def _one(seed: int, options: Options, arguments: argparse.Namespace, started: float) -> int:
    campaign = Campaign(started=started, minutes=None, wanted=1)
    with planted(options.plant):
        simulation = build(seed, options)
        outcome = simulation.run()
    campaign.add(outcome)
    if arguments.trace and simulation.world.trace is not None:
        Path(arguments.trace).write_text("".join(simulation.world.trace), encoding="utf-8")
    _report(options, outcome, verbose=arguments.verbose)
    _sum_up(campaign)
    if outcome.kinds and arguments.shrink is not None:
        transcript = shrink(seed, options, outcome, lambda words: print(f"  {words}", file=sys.stderr, flush=True))
        save(transcript, arguments.shrink)
        print(f"{len(transcript.faults)} of {len(outcome.struck)} faults matter; kept in {arguments.shrink}")
    return 1 if campaign.failed else 0


def _report(options: Options, outcome: Outcome, *, verbose: bool) -> None:
    if verbose or outcome.kinds:
        print(f"{options.profile}: {describe(outcome)}", flush=True)
    if outcome.kinds:
        for violation in outcome.violations:
            print(f"    {violation.at:.3f} s {violation.kind}: {violation.detail}")
        if options.only is None:
            print(f"    repeat: {repeat_command(outcome.seed, options)}", flush=True)


def _sum_up(campaign: Campaign) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(campaign.summary())
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(campaign.totals.items())))


if __name__ == "__main__":
    sys.exit(main())
