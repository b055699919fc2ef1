"""Machines that were off for longer than a certificate lives: their clocks say so, not a test's hand in their files."""

from pathlib import Path

import pytest

from tests.e2e.securing import SecuredHarness
from tests.e2e.test_secured_disaster import nodes_ready

LIBRARY = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(LIBRARY is None, reason="not installed: libfaketime"),
]
LATER = {
    "LD_PRELOAD": str(LIBRARY), "FAKETIME": "+31d",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # or timed waits of threads end at once
}  # fmt: skip
"""By the environment: the program `faketime` stays beside what it runs, and would be ended in its place."""
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: this process itself stays in the present."""


def test_every_machine_was_off_for_a_month(fresh_secured: SecuredHarness) -> None:
    """Servers sign for themselves; an agent says what it lacks, and comes back with a fresh token."""
    cluster = fresh_secured
    cluster.apply("app", replicas=2)
    cluster.stop()
    for process in cluster.processes():
        process.environment.pop("KAGO_TOKEN_FILE", None)
        process.environment |= LATER
    cluster.identity |= LATER
    cluster.ask_as(cluster.identity["KAGO_TOKEN"], next(cluster.directory.glob("tokens-*/ca.pem")).read_bytes(), verify_flags=NO_CHECK_TIME)
    for server in cluster.servers:
        server.start()
    cluster.until("a leader", lambda: cluster.cluster()["leader"])
    agent = cluster.agents[0]
    agent.start()
    cluster.until("it to end", lambda: not agent.running)
    assert agent.exit_code == 1 and "kago token create --role agent" in agent.last_words() and "Traceback" not in agent.last_words(200)
    token = cluster.directory / "fresh"
    token.write_text(cluster.kago("token", "create", "--role", "agent", "--uses", "2"))
    for one in cluster.agents:
        one.environment["KAGO_TOKEN_FILE"] = str(token)
        one.start()
    cluster.until("the agents to be back", lambda: nodes_ready(cluster))
    assert "new certificate" in cluster.servers[0].last_words(200)
    cluster.until("its pods", lambda: len(cluster.processes_of("app")) == 2)
    pids = [process.pid for process in cluster.processes()]
    cluster.stop()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
