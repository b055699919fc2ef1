"""`kago serve` and `kago agent` with failpoints, and with snapshots often enough to be met: python -m tests.chaos.process serve …

The same program otherwise: its code is not touched, only wrapped. KAGO_FAILPOINT as in `failpoints.py`; KAGO_SNAPSHOT_ENTRIES: how many
log entries make a snapshot.
"""

import os
import sys

from kago.cli.main import main
from tests.chaos.failpoints import Failpoints
from tests.chaos.seams import install_agent, install_server, make_snapshots

if __name__ == "__main__":
    if entries := os.environ.pop("KAGO_SNAPSHOT_ENTRIES", ""):
        make_snapshots(every_entries=int(entries))
    if setting := os.environ.pop("KAGO_FAILPOINT", ""):
        (install_server if "serve" in sys.argv[1:2] else install_agent)(Failpoints(setting))
    main()
