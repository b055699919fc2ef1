"""The main job on real processes: three servers, two agents, and every one of them killed in turn."""

import signal
import time

import pytest

from kago.cli.local import run_kago
from tests.e2e.harness import SLEEPER, Harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def delete(cluster: Harness, name: str) -> None:
    assert cluster.kago("delete", name) == f"deployment/{name} deleted\n"
    assert cluster.request("GET", f"/deployments/{name}").status_code == 404
    cluster.until(f"the last process of {name} to end", lambda: not cluster.processes_of(name))


@pytest.mark.parametrize("server", [0, 1, 2])
def test_a_life_by_command_line_through_any_server(cluster: Harness, server: int) -> None:
    name, only = f"life-{server}", [cluster.urls[server]]
    assert cluster.apply(name, servers=only) == f"deployment/{name} created\n"
    assert cluster.apply(name, servers=only) == f"deployment/{name} unchanged\n"
    assert len(cluster.processes_of(name)) == 2
    assert cluster.kago("scale", name, "4", "--wait", servers=only) == f"deployment/{name} scaled\n"
    assert len(cluster.processes_of(name)) == 4
    lines = cluster.kago("get", f"deployment/{name}", servers=only).splitlines()
    assert lines[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert lines[1].split()[:4] == [name, "4/4", "4", "4"]
    assert set(cluster.kago("get", "pods", "-o", "name", servers=only).split()) >= {f"pod/{pod}" for pod in cluster.processes_of(name)}
    assert cluster.kago("delete", f"deployment/{name}", servers=only) == f"deployment/{name} deleted\n"
    cluster.kago("get", "deployment", name, code=4, servers=only)
    cluster.until("the last process to end", lambda: not cluster.processes_of(name))


@pytest.mark.parametrize("server", [0, 1, 2])
def test_a_life_by_rest_through_any_server(cluster: Harness, server: int) -> None:
    name = f"rest-{server}"
    small = {"cpu_millis": 50, "memory_mb": 64}
    spec = {"name": name, "runtime": "process", "command": ["/bin/sleep", "9999"], "replicas": 1, "resources": small}
    made = cluster.request("POST", "/deployments", server=server, body=spec)
    assert (made.status_code, made.headers["location"]) == (201, f"/deployments/{name}")
    assert cluster.request("POST", "/deployments", server=server, body=spec).status_code == 409
    assert cluster.request("PUT", f"/deployments/{name}", server=server, body={"replicas": 3}).status_code == 200
    cluster.until("three ready pods", lambda: cluster.get(f"/deployments/{name}", server=server)["ready_replicas"] == 3)
    seen = [sorted(pod["id"] for pod in cluster.get("/pods", server=n, deployment_name=name)) for n in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert cluster.request("PUT", f"/deployments/{name}", server=server, body={"replicas": -1}).status_code == 422
    assert cluster.request("DELETE", f"/deployments/{name}", server=server).status_code == 200
    assert cluster.request("GET", f"/deployments/{name}", server=server).status_code == 404
    cluster.until("the last process to end", lambda: not cluster.processes_of(name))


def test_an_update_never_has_fewer_than_wanted_and_ends_with_the_new_revision(cluster: Harness) -> None:
    cluster.apply("roll", replicas=3)
    before = cluster.processes_of("roll")
    body = {"args": ["999999"]}
    assert cluster.request("PUT", "/deployments/roll", body=body).json()["revision"] == 2
    least = 3

    def done() -> bool:
        nonlocal least
        roll = cluster.get("/deployments/roll", stale="true")
        least = min(least, roll["ready_replicas"])
        return bool(roll["updated_replicas"] == roll["ready_replicas"] == roll["total_replicas"] == 3)

    cluster.until("the update to end", done, timeout_s=60)
    assert least == 3
    cluster.until("the old processes to end", lambda: not before.keys() & cluster.processes_of("roll").keys())
    assert len(cluster.processes_of("roll")) == 3
    delete(cluster, "roll")


def test_what_does_not_fit_stays_pending_and_says_why(cluster: Harness) -> None:
    manifest = SLEEPER.format(name="big", replicas=1, seconds=5).replace("50m", "3900m").replace("64Mi", "100Gi")
    cluster.kago("apply", "-f", "-", stdin=manifest)
    pod = cluster.until("the reason", lambda: next((pod for pod in cluster.pods("big") if pod["reason"]), None))
    assert pod is not None
    assert pod["status"] == "pending"
    assert all(name in pod["message"] for name in cluster.node_names), pod["message"]
    delete(cluster, "big")


def test_kill_of_the_leader(cluster: Harness) -> None:
    cluster.apply("app", replicas=4)
    before = cluster.processes_of("app")
    cluster.leader().kill()
    began = time.monotonic()
    assert cluster.kago("scale", "app", "5") == "deployment/app scaled\n"
    print(f"write taken {time.monotonic() - began:.2f} s after the kill, command line and all")
    cluster.bring_up()
    cluster.until("five pods", lambda: cluster.get("/deployments/app")["ready_replicas"] == 5)
    assert {name: pids for name, pids in cluster.processes_of("app").items() if name in before} == before
    delete(cluster, "app")


def test_kill_of_a_follower(cluster: Harness) -> None:
    cluster.apply("app")
    before = cluster.processes_of("app")
    follower = cluster.followers()[0]
    follower.kill()
    cluster.kago("apply", "-f", "-", stdin=SLEEPER.format(name="meanwhile", replicas=0, seconds=1))
    cluster.bring_up()
    n = cluster.servers.index(follower)
    assert cluster.get("/deployments/meanwhile", server=n)["replicas"] == 0
    cluster.untouched("app", before)
    delete(cluster, "meanwhile")
    delete(cluster, "app")


def test_kill_of_two_of_three_and_back(cluster: Harness) -> None:
    cluster.apply("app")
    before = cluster.processes_of("app")
    lost = [cluster.leader(), cluster.followers()[0]]
    for server in lost:
        server.kill()
    left = next(n for n, server in enumerate(cluster.servers) if server.running)
    answer = cluster.request("PUT", "/deployments/app", server=left, body={"replicas": 3})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert cluster.get("/deployments/app", server=left, stale="true")["replicas"] == 2
    assert cluster.processes_of("app") == before
    cluster.bring_up()
    cluster.until("both pods", lambda: cluster.get("/deployments/app")["ready_replicas"] >= 2)
    assert {name: pids for name, pids in cluster.processes_of("app").items() if name in before} == before
    delete(cluster, "app")


def test_kill_of_all_three_and_back(cluster: Harness) -> None:
    cluster.apply("app", replicas=3)
    before, listed = cluster.processes_of("app"), cluster.kago("get", "deployments", "-o", "name")
    for server in cluster.servers:
        server.kill()
    assert "no server is reachable" not in cluster.kago("get", "pods", code=6)
    time.sleep(1.0)
    assert cluster.processes_of("app") == before
    cluster.bring_up()
    assert cluster.kago("get", "deployments", "-o", "name") == listed
    time.sleep(3.0)  # longer than the agents need to reconnect and to be told anything
    cluster.untouched("app", before)
    delete(cluster, "app")


def test_kill_of_an_agent_and_its_restart(cluster: Harness) -> None:
    cluster.apply("app", replicas=4)
    before = cluster.processes_of("app")
    cluster.agents[0].kill()
    time.sleep(1.0)
    cluster.bring_up()
    time.sleep(2.0)
    cluster.untouched("app", before)
    delete(cluster, "app")


def test_a_node_gone_is_replaced_in_seven_seconds_and_its_surplus_stopped_when_it_is_back(cluster: Harness) -> None:
    manifest = SLEEPER.format(name="app", replicas=4, seconds=77_777) + "  scheduler: least-allocated\n"
    cluster.kago("apply", "-f", "-", "--wait", stdin=manifest)
    gone = cluster.node_names[0]
    there = {pod["name"] for pod in cluster.pods("app") if pod["node_name"] == gone}
    assert there
    kept = {name: pids for name, pids in cluster.processes_of("app").items() if name not in there}
    cluster.agents[0].signal(signal.SIGSTOP)  # silent, as a machine without power is; the kill comes when it is declared dead
    last_heartbeat = time.monotonic()

    def elsewhere() -> bool:
        pods = cluster.pods("app")
        return sum(pod["ready"] for pod in pods) == 4 and all(pod["node_name"] != gone for pod in pods)

    cluster.until("four pods on the other node", elsewhere, timeout_s=20)
    took = time.monotonic() - last_heartbeat
    print(f"replaced {took:.2f} s after the last heartbeat")
    assert took < 7.0
    cluster.agents[0].kill()
    cluster.bring_up()
    cluster.until("the surplus to stop", lambda: not there & cluster.processes_of("app").keys())
    now = cluster.processes_of("app")
    assert len(now) == 4
    assert {name: now.get(name) for name in kept} == kept
    delete(cluster, "app")


def test_the_doctor_names_a_server_that_is_down_and_a_node_that_is_silent(cluster: Harness) -> None:
    follower = cluster.followers()[0]
    id = follower.arguments[follower.arguments.index("--address") + 1]
    assert f"{id}: the other servers" not in doctor(cluster)
    follower.kill()
    cluster.agents[0].kill()
    cluster.until("the server to be missed", lambda: f"error: {id}: the other servers do not hear it" in doctor(cluster))
    cluster.until("the node to be missed", lambda: f"error: node/{cluster.node_names[0]}: it is unknown" in doctor(cluster))
    assert "-> start it" in doctor(cluster)
    cluster.bring_up()
    cluster.until("all to be well again", lambda: id not in doctor(cluster))


def doctor(cluster: Harness) -> str:
    """What it says, whatever else it may find on this machine."""
    result = run_kago(["doctor"], environment={"KAGO_SERVER": ",".join(cluster.urls)})
    assert result.returncode in (0, 1)
    assert (result.returncode == 0) == (not result.stdout)
    return result.stdout
