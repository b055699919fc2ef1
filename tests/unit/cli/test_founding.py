"""How a secured cluster is begun and joined from the command line, and what a server off loopback is asked for."""

import stat
from pathlib import Path
from typing import Any

import pytest

from kago.cli import contexts
from kago.cli.failures import Code, VerbFailed
from kago.cli.founding import TOKENS_DIRECTORY, found, found_once, init, read_token
from kago.cli.serving import serve_config
from kago.config import ServeConfig
from kago.core.model.token import TokenRole
from kago.security.first import read_first_tokens
from kago.security.keyring import Keyring, KeyringError
from kago.security.tokens import mint, parse_token

FAR = "10.0.0.1,10.0.0.2,10.0.0.3"


def config(data_dir: Path, **changed: Any) -> ServeConfig:
    flags: dict[str, Any] = {
        "host": "0.0.0.0", "port": 8080, "peers": FAR, "address": "10.0.0.1", "data_dir": data_dir, "scheduler": "first-fit",
        "rejoin": False, "insecure": False, "node_lease_s": 5.0,
    }
    return serve_config(**{**flags, **changed})


def test_off_loopback_a_server_has_a_certificate_or_says_that_it_has_none(tmp_path: Path) -> None:
    with pytest.raises(VerbFailed, match="kago cluster init") as refused:
        config(tmp_path)
    assert refused.value.code is Code.USAGE and "--insecure" in str(refused.value)
    assert config(tmp_path, insecure=True).api_url == "http://10.0.0.1:8080"
    assert config(tmp_path, joins=True).api_url == "https://10.0.0.1:8080"
    near = {"peers": "127.0.0.1:1,127.0.0.1:2", "address": "127.0.0.1:1", "host": "127.0.0.1"}
    assert config(tmp_path, **near).api_url == "http://127.0.0.1:8080"
    found(tmp_path)
    assert config(tmp_path).api_url == "https://10.0.0.1:8080"
    assert config(tmp_path, **near).api_url == "https://127.0.0.1:8080", "who has keys uses them"
    assert config(tmp_path, insecure=True).api_url == "http://10.0.0.1:8080"


def test_a_cluster_is_founded_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home: dict[str, Any] = {"port": 8080, "environment": {"XDG_CONFIG_HOME": str(tmp_path / "config")}}
    init(tmp_path / "s", tmp_path / "tokens", once=False, **home)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(printed) == ["server", "agent", "read", "admin"]
    for role, text in printed.items():
        path = tmp_path / "tokens" / role
        assert path.read_text() == text + "\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = {token.id: token for token in read_first_tokens(Keyring(tmp_path / "s"))}
    server = kept[parse_token(printed["server"]).id]
    assert server.role is TokenRole.SERVER and server.expires_at == server.created_at + 24 * 3600
    assert server.digest == parse_token(printed["server"]).digest
    everything = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert not [text for text in printed.values() if parse_token(text).secret.encode() in everything], "of tokens hashes are kept"
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    with pytest.raises(KeyringError, match="already"):
        init(tmp_path / "s", None, once=False, **home)
    init(tmp_path / "s", tmp_path / "tokens", once=True, **home)
    found_once(tmp_path / "s")
    assert capsys.readouterr().out == ""


def test_a_server_that_founds_tells_its_logs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found_once(tmp_path)
    said = capsys.readouterr()
    texts = [path.read_text() for path in (Keyring(tmp_path).directory / TOKENS_DIRECTORY).iterdir() if path.name != "ca.pem"]
    assert len(texts) == 4 and not said.out
    assert not [text for text in texts if parse_token(text).secret in said.err]


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    token = mint(b"a" * 32)
    path = tmp_path / "token"
    path.write_text(token.text + "\n")
    assert read_token("", path) == token and read_token(token.text, None) == token and read_token("", None) is None
    assert read_token("", tmp_path / "none") is None, "a machine that has joined needs no token any more"
    for wrong in ("kago1.abc", token.text[:-1]):
        with pytest.raises(VerbFailed) as refused:
            read_token(wrong, None)
        assert refused.value.code is Code.USAGE and token.secret[:10] not in str(refused.value)


def test_whoever_founds_a_cluster_has_a_context_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    init(tmp_path / "a", None, once=True, port=8080, environment=environment)
    assert not contexts.load(environment).contexts, "a script has not asked for it"
    init(tmp_path / "b", None, once=False, port=8090, environment=environment)
    told = capsys.readouterr()
    known = contexts.load(environment)
    made = known.contexts["default"]
    assert known.current == "default" and made.servers[0] == "https://localhost:8090" and made.ca.encode() == Keyring(tmp_path / "b").ca_pem
    assert f"admin {made.token}" in told.out and "and in use" in told.err and made.token not in told.err
    init(tmp_path / "c", None, once=False, port=8080, environment=environment)
    assert contexts.load(environment) == known and "left as it is" in capsys.readouterr().err
