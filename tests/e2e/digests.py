"""Replay a server's journal and print `index digest` of the state after each proposal: run by each version's own interpreter path."""

import sys
from pathlib import Path

from kago.core.state.machine import Machine
from raft.disk import FileDisk
from raft.journal import Journal
from raft.messages import decode_batch

REGULAR = b"\x00"


def main(directory: str) -> None:
    machine, seen = Machine(), set()
    for command, _, _ in Journal(FileDisk(Path(directory)))[:]:
        if command[:1] != REGULAR:
            continue
        for request_id, entry, _ in decode_batch(command[1:]).proposals:
            if request_id not in seen:
                seen.add(request_id)
                machine.apply(len(seen), entry)
                print(len(seen), machine.digest)


main(sys.argv[1])
