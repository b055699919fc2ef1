"""`make bench`: every figure that Kago is to reach, beside its peers in the same run.

    python -m tests.benchmarks [--only api,log] [--repeats 5] [--quick] [--out FILE.json] [--against EARLIER.json]

Prints a table, and writes FILE.json (every repeat) and FILE.html beside it (plots). `--list` names the benchmarks.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.benchmarks import api, containers, curves, elections, failover, hollow, idle, log, planning
from tests.benchmarks.figures import FORMAT, Run
from tests.benchmarks.machine import NotOnDisk, commit, describe, fdatasync_s, require_disk
from tests.benchmarks.page import render
from tests.benchmarks.session import Bench, Session
from tests.benchmarks.tables import TITLES, against, as_markdown, as_table, remarks, rows

BENCHES: tuple[Bench, ...] = (
    log.BENCH, api.BENCH, failover.BENCH, containers.BENCH, planning.BENCH, curves.BENCH, hollow.BENCH, hollow.BENCH_STEADY, idle.BENCH,
    elections.BENCH,
)  # fmt: skip
LIBRARIES = ("sanic", "uvloop", "msgspec", "pysyncobj")


def main(words: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what was started is ended, too
    options = _parser().parse_args(words)
    names = {bench.name: bench for bench in BENCHES}
    if options.list:
        print("\n".join(f"{bench.name:<12} {bench.about}" for bench in BENCHES))
        return 0
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in names]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    try:
        before = _read(options.against) if options.against else None
        require_disk(options.dir)
    except (OSError, NotOnDisk) as error:
        print(error, file=sys.stderr)
        return 2
    repeats = options.repeats or (2 if options.quick else 5)
    run = measure([names[name] for name in wanted] or BENCHES, options.dir, repeats=repeats, quick=options.quick, faults=options.faults)
    lines = rows(run.measured)
    print((as_markdown if options.markdown else as_table)(TITLES, lines))
    print(f"\n{remarks(run)}")
    if before is not None:
        print(f"\n{against(run, before)}")
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    page = options.out.with_suffix(".html")
    page.write_text(render(run))
    print(f"\nwritten: {options.out} and {page}", file=sys.stderr)
    return 0


def measure(benches: Sequence[Bench], directory: Path, *, repeats: int, quick: bool, faults: int = 0) -> Run:
    began, began_at = time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    name, changed = commit()
    with tempfile.TemporaryDirectory(prefix="kago-bench-", dir=directory, ignore_cleanup_errors=True) as place:
        session = Session(Path(place), repeats=repeats, quick=quick, faults=faults)
        session.versions.update({library: version(library) for library in LIBRARIES})
        print(f"an fdatasync of 300 bytes takes {1000 * fdatasync_s(Path(place)):.2f} ms here", file=sys.stderr)
        measured = session.run(benches)
        machine = describe(Path(place), session.versions)
    return Run(
        format=FORMAT,
        commit=name,
        changed=changed,
        began_at=began_at,
        took_s=round(time.monotonic() - began, 1),
        quick=quick,
        repeats=repeats,
        machine=machine,
        measured=measured,
        curves=tuple(session.curves),
    )


def _read(path: Path) -> Run:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except msgspec.MsgspecError as error:
        raise OSError(f"{path} is no run of this program: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="comma-separated; all of them where left out")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument("--repeats", type=int, default=0, help="of each measure, Kago and peer in turn (5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="short loads and small clusters: to see that it works, not to quote")
    parser.add_argument("--faults", type=int, default=0, help="leaders killed, and cut off (100; quick: 20)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the servers' data lies while it lasts; a disk")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--against", type=Path, help="an earlier run's file, to compare with")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
