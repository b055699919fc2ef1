"""The measuring house itself: its arithmetic, its generator, and one run of the cheapest measure from end to end."""

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.figures import Curve, Figure, Goal, Measured, Run, Sample
from tests.benchmarks.load import Load, LoadFailed, apply
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.benchmarks.wire import Answer, Grpc, Http, http_request, message


def _samples(*values: float) -> tuple[Sample, ...]:
    return tuple(Sample(value=value) for value in values)


@pytest.mark.parametrize(
    ("goal", "kago", "peer", "words", "reached"),
    [
        (Goal(at_least=True, times=10), (100, 90, 120), (9, 10, 11), "≥ 10 × Swarm", True),
        (Goal(at_least=True, times=10), (100, 80, 90), (9, 10, 11), "≥ 10 × Swarm", False),
        (Goal(at_least=False, times=1, plus=0.06), (0.15,), (0.1,), "≤ Swarm + 0.06 s", True),
        (Goal(at_least=False, times=1, plus=0.06), (0.17,), (0.1,), "≤ Swarm + 0.06 s", False),
        (Goal(at_least=False, plus=0.4), (0.3, 0.5, 0.3), (), "≤ 0.4 s", True),
        (Goal(at_least=True, times=10), (100,), (), "≥ 10 × Swarm", None),
    ],
)
def test_goal(goal: Goal, kago: tuple[float, ...], peer: tuple[float, ...], words: str, reached: bool | None) -> None:
    figure = Figure(name="x", unit="s", peer="Swarm", goal=goal)
    assert goal.words(figure) == words
    assert Measured(figure=figure, kago=_samples(*kago), peer=_samples(*peer)).reached is reached


def test_the_worst_is_judged_where_it_is_meant() -> None:
    figure = Figure(name="x", unit="s", goal=Goal(at_least=False, plus=1.0), worst=True)
    assert Measured(figure=figure, kago=_samples(0.1, 0.1, 1.1)).reached is False


def test_exponent() -> None:
    assert Curve(name="x", x="n", y="s", points=((10, 3.0), (100, 300.0), (1000, 30_000.0))).exponent == pytest.approx(2.0)
    assert Curve(name="x", x="n", y="s", points=((10, 3.0),)).exponent is None


def test_http_answers_come_in_any_pieces() -> None:
    for whole, body in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ):
        wire = Http()
        found = [wire.feed(whole[n : n + 1])[0] for n in range(len(whole))]
        assert found == [None] * (len(whole) - 1) + [Answer(True, body)]


def test_a_reply_of_grpc_without_a_message_is_a_refusal() -> None:
    def reply(*, with_message: bool) -> bytes:
        data = b"\x00\x00\x06\x00\x00\x00\x00\x00\x01" + b"\x00\x00\x00\x00\x01m" if with_message else b""
        return data + b"\x00\x00\x00\x01\x05\x00\x00\x00\x01"

    for with_message in (True, False):
        wire = Grpc("/x/Y")
        wire.pack(message((1, b"key"), (7, 1)))
        whole = reply(with_message=with_message)
        found = [wire.feed(whole[n : n + 1])[0] for n in range(len(whole))]
        assert found[:-1] == [None] * (len(whole) - 1)
        assert found[-1] is not None and found[-1].ok is with_message


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    answer = b""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(65536):
            self.request.sendall(self.server.answer)  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_load_counts_what_was_answered_and_refuses_bad_answers(server: _Server) -> None:
    load = Load(target=f"127.0.0.1:{server.server_address[1]}", clients=((http_request("GET", "/"),),) * 3, seconds=0.2)
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    outcome = apply(load)
    assert outcome.answers > 0 and len(outcome.done) == 3 and min(outcome.done) > 0 and outcome.answer_bytes == 2
    server.answer = b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"
    with pytest.raises(LoadFailed, match="503"):
        apply(load)


def test_what_fails_is_in_the_table_and_ends_nothing_else(tmp_path: Path) -> None:
    good, bad = (Figure(name=name, unit="s", peer="Other") for name in ("good", "bad"))

    def fail() -> dict[Figure, float]:
        raise OSError("no disk")

    def run(session: Session) -> None:
        session.interleave(
            [
                Probe(side=KAGO, figures=(good,), take=lambda: {good: 1.0}),
                Probe(side=KAGO, figures=(bad,), take=fail),
                Probe(side="Other", figures=(good,), take=lambda: {good: 2.0}),
            ]
        )

    measured = Session(tmp_path, repeats=3, quick=True).run([Bench(name="x", about="", figures=(good, bad), run=run)])
    assert [len(one.kago) for one in measured] == [3, 0]
    assert measured[0].ratio is not None and measured[0].ratio.median == 0.5
    assert measured[1].missing == (f"{KAGO}: OSError: no disk",)


def test_the_cheapest_measure_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    words = ["--only", "planning", "--quick", "--repeats", "2", "--dir", str(tmp_path), "--out", str(out)]
    assert main(words) == 0
    run = msgspec.json.decode(out.read_bytes(), type=Run)
    assert run.commit and run.machine.cores
    assert all(len(one.kago) == 2 and not one.missing for one in run.measured) and len(run.measured) == 5
    assert all(curve.exponent is not None for curve in run.curves)
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") >= 5 and "http" not in page.replace("http-equiv", "")
    capsys.readouterr()
    assert main([*words, "--against", str(out)]) == 0
    assert f"against {run.commit}" in capsys.readouterr().out


def test_wrong_words_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": 99}))
    assert main(["--only", "planning", "--against", str(other)]) == 2
    assert "other.json" in capsys.readouterr().err
