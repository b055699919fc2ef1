"""python -m tests.chaos: the whole campaign, or a part of it. Needs root and iproute2; says what else is missing.

python -m tests.chaos --short                                 each of a handful of faults once
python -m tests.chaos --faults kill-leader,cut-leader --rounds 20
python -m tests.chaos --minutes 60 --out chaos.jsonl          as many rounds of all of them as fit
python -m tests.chaos --report chaos.jsonl …                  the figures of earlier runs together
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.chaos.campaign import Campaign, Injected
from tests.chaos.faults import SERVER_FAULTS
from tests.chaos.node_faults import NODE_FAULTS
from tests.chaos.report import as_markdown, as_table, rows
from tests.chaos.stage import Fault
from tests.e2e.netns import why_none
from tests.integration.engine import why_none as why_no_engine

FAULTS = (*SERVER_FAULTS, *NODE_FAULTS)
SHORT = ("kill-leader", "cut-leader", "torn-tail", "container-killed", "agent-killed")
_decoder = msgspec.json.Decoder(Injected)


def chosen(names: str, *, docker: bool) -> list[Fault]:
    """The faults of that name, or all, that this kind of node can have. ValueError."""
    known = {fault.name: fault for fault in FAULTS}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted if known[name].docker in (None, docker) and not known[name].lacks]


def inject(
    faults: list[Fault], *, rounds: int, minutes: float, docker: bool, secured: bool = False, seed: int, out: Path | None
) -> list[Injected]:
    done: list[Injected] = []

    def note(injected: Injected) -> None:
        done.append(injected)
        if out is not None:
            with out.open("ab") as file:
                file.write(msgspec.json.encode(injected) + b"\n")
        found = injected.findings.total()
        words = f"gap {injected.gap_s:.2f} s, healed after {injected.healed_s:.2f} s, {injected.calls} calls"
        print(f"{len(done):4} {injected.fault}: {words}{f', {found} FINDINGS' if found else ''}", file=sys.stderr, flush=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # so that what was made goes in that case, too
    directory = Path(tempfile.mkdtemp(prefix="kago-chaos-"))
    campaign = Campaign(directory, docker=docker, secured=secured, seed=seed, note=note)
    try:
        campaign.run(faults, rounds=rounds, until=time.monotonic() + 60 * minutes)
    finally:
        campaign.close()
    if any(one.findings.total() for one in done):
        print(f"logs and records are in {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default="", help="names, separated by commas; all of them where it is left out")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no fault after that")
    parser.add_argument("--short", action="store_true", help=f"once each: {', '.join(SHORT)}")
    parser.add_argument("--runtime", choices=("docker", "process"), help="docker where a private engine can be had")
    parser.add_argument("--secured", action="store_true", help="with a CA and tokens, everything over mutual TLS")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--out", type=Path, help="append each fault's outcome to this file, as a line of JSON")
    parser.add_argument("--report", type=Path, nargs="+", help="only print the figures of such files")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        done = [_decoder.decode(line) for path in arguments.report for line in path.read_bytes().splitlines()]
    else:
        if why := why_none():
            print(f"no faults can be made here: {why}", file=sys.stderr)
            return 2
        docker = not why_no_engine() if arguments.runtime is None else arguments.runtime == "docker"
        faults = chosen(",".join(SHORT) if arguments.short else arguments.faults, docker=docker)
        for fault in FAULTS:
            if fault.lacks:
                print(f"{fault.name} is left out: {fault.lacks}", file=sys.stderr)
        done = inject(
            faults,
            rounds=arguments.rounds,
            minutes=arguments.minutes,
            docker=docker,
            secured=arguments.secured,
            seed=arguments.seed,
            out=arguments.out,
        )
    order = [fault.name for fault in FAULTS]
    print((as_markdown if arguments.markdown else as_table)(rows(sorted(done, key=lambda one: order.index(one.fault)))))
    return 1 if any(one.findings.total() for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
