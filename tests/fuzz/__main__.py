"""`python -m tests.fuzz [--cases N] [--seed S] [TARGET …]`: rubbish for every way in, counted; a finding prints how to repeat it.

`--case TARGET:NUMBER` repeats one, and those before it that it may build upon.
"""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

from tests.fuzz import api, credentials, files, strangers, streams, texts, wires
from tests.fuzz.mutations import RUN, Case

TARGETS: Mapping[str, Callable[[Random], Case]] = {
    target.__name__: target
    for target in (
        wires.frames, wires.batches, wires.hellos, wires.links, wires.members,
        files.journals, files.snapshots, files.identities, files.notes, files.states, files.backups,
        texts.entries, texts.replies, texts.manifests, texts.bodies, api.sockets,
        credentials.tokens, credentials.signings, credentials.certificates, streams.watches, streams.masters, streams.ports,
        strangers.strangers,
    )
}
OPENAPI, SECURED = "openapi", "openapi-secured"
SHARES = {"manifests": 0.2, "links": 0.5, "members": 0.1, "notes": 0.5, "entries": 1.0, "identities": 0.5, "sockets": 0.05, OPENAPI: 0.02,
          "watches": 0.2, "masters": 0.1, "ports": 0.2, "strangers": 0.2, SECURED: 0.02}
"""Of the cases of the others: what is slow gets fewer."""
SLOW_S = 5.0
MAX_GROWTH_MB = 200
MAX_FINDINGS = 5


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def run(target: str, cases: int, seed: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """The outcomes of so many cases, and what was found, each with the command that repeats it."""
    case, outcomes, findings = TARGETS[target](Random(seed)), Counter[str](), list[str]()
    before = resident_mb()
    for number in range(first, first + cases):
        began = time.process_time()
        try:
            outcomes[case(Random(seed << 40 | number))] += 1
        except Exception:
            outcomes["FOUND"] += 1
            findings.append(f"{target}: python -m tests.fuzz --seed {seed} --case {target}:{number}\n{traceback.format_exc()}")
        if time.process_time() - began > SLOW_S:
            findings.append(f"{target}: case {number} of seed {seed} took {time.process_time() - began:.1f} s of the processor")
        if len(findings) >= MAX_FINDINGS:
            break
    close = getattr(case, "close", None)
    if close is not None:
        close()
    if resident_mb() - before > MAX_GROWTH_MB:
        findings.append(f"{target}: memory grew from {before:.0f} to {resident_mb():.0f} MB")
    return outcomes, findings


def run_openapi(name: str, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """The same for every operation of the OpenAPI document; schemathesis prints how to repeat what it finds."""
    outcomes = Counter[str]()

    def count(outcome: str) -> None:
        outcomes[outcome] += 1

    try:
        api.check_openapi(max(1, cases // api.OPERATIONS), seed, count, secure=name == SECURED)
    except (Exception, ExceptionGroup):
        return outcomes, [f"{name}: python -m tests.fuzz --seed {seed} --cases {cases} {name}\n{traceback.format_exc()}"]
    return outcomes, []


def fuzz(plan: Mapping[str, int], seed: int, first: int = 0) -> list[str]:
    """Go through `plan` (cases of each target), say what was done, and return what was found."""
    found, total = [], 0
    for name, cases in plan.items():
        began = time.monotonic()
        outcomes, findings = run_openapi(name, cases, seed) if name in (OPENAPI, SECURED) else run(name, cases, seed, first)
        took_s, done = time.monotonic() - began, sum(outcomes.values())
        total += done
        told = "  ".join(f"{what} {count}" for what, count in sorted(outcomes.items()))
        print(f"{name:12} {done:9} cases  {done / took_s:8.0f}/s  {resident_mb():5.0f} MB  {told}", flush=True)
        found += findings
    print(f"{total} cases, {len(found)} findings", flush=True)
    return found


def plan_of(cases: int, chosen: Sequence[str] = ()) -> dict[str, int]:
    names = chosen or [*TARGETS, OPENAPI, SECURED]
    weight = sum(SHARES.get(name, 1.0) for name in names)
    return {name: max(1, round(cases * SHARES.get(name, 1.0) / weight)) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*TARGETS, OPENAPI, SECURED]))
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", default="", metavar="TARGET:NUMBER")
    wanted = parser.parse_args()
    unknown = [name for name in wanted.targets if name not in (*TARGETS, OPENAPI, SECURED)]
    if unknown:
        parser.error(f"there is no target {', '.join(unknown)}; there are {', '.join([*TARGETS, OPENAPI, SECURED])}")
    logging.basicConfig(level=logging.CRITICAL + 1)
    if wanted.case:
        target, _, number = wanted.case.partition(":")
        first = int(number) // RUN * RUN
        found = fuzz({target: int(number) - first + 1}, wanted.seed, first)
    else:
        found = fuzz(plan_of(wanted.cases, wanted.targets), wanted.seed)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
