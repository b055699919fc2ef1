"""Contexts: flag before environment before file before default, and a file that nobody else reads."""

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from kago.cli import contexts
from kago.cli.contexts import Context, Contexts, resolve
from kago.cli.failures import Code, VerbFailed
from kago.cli.main import app
from kago.security.authority import Authority, ca_digest
from kago.security.tokens import mint

CA = Authority.make("c1", now=time.time()).pem
TOKEN, OTHER = mint(ca_digest(CA)), mint(ca_digest(CA))
PROD = Context(servers=("https://a:8080", "https://b:8080"), ca=CA.decode(), token=TOKEN.text)
TEST = Context(servers=("http://t:8080",))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    here = {"XDG_CONFIG_HOME": str(tmp_path)}
    contexts.save(here, Contexts(current="prod", contexts={"prod": PROD, "test": TEST}))
    return here


def found(servers: str, environment: dict[str, str]) -> tuple[tuple[str, ...], bool, str]:
    access = asyncio.run(resolve(servers, environment))
    return access.servers, bool(access.ca), access.token.id if access.token else ""


def test_what_counts_first(environment: dict[str, str]) -> None:
    assert found("", environment) == (PROD.servers, True, TOKEN.id)
    assert found("https://c:1, https://d:1", environment) == (("https://c:1", "https://d:1"), True, TOKEN.id)
    assert found("http://c:1", environment) == (("http://c:1",), False, ""), "a token is for https alone"
    assert found("", {**environment, "KAGO_TOKEN": OTHER.text}) == (PROD.servers, True, OTHER.id)
    assert found("", {**environment, "KAGO_CONTEXT": "test"}) == (TEST.servers, False, "")
    assert found("", {"XDG_CONFIG_HOME": "/nowhere"}) == (("http://localhost:8080",), False, "")


def test_contexts_come_and_go(environment: dict[str, str]) -> None:
    contexts.use(environment, "test")
    assert contexts.load(environment).current == "test"
    contexts.remove(environment, "test")
    assert contexts.load(environment) == Contexts(current="", contexts={"prod": PROD})
    asyncio.run(contexts.add(environment, "new", ("http://n:1",), None, use=False))
    assert contexts.load(environment).current == "new", "the first to be had is used"
    for verb in (contexts.use, contexts.remove):
        with pytest.raises(VerbFailed, match="no context 'none'; there are new, prod") as refused:
            verb(environment, "none")
        assert refused.value.code is Code.NOT_FOUND


def test_servers_that_the_cluster_names_are_asked_when_those_given_are_gone(environment: dict[str, str]) -> None:
    contexts.remember(environment, "prod", ("https://b:8080", "https://c:8080", "http://d:8080"))
    assert found("", environment)[0] == (*PROD.servers, "https://c:8080"), "a token is for https alone"
    contexts.remember(environment, "prod", ())
    assert found("", environment)[0] == (*PROD.servers, "https://c:8080"), "nobody answered"
    contexts.remember(environment, "prod", ("https://a:8080", "https://b:8080"))
    assert found("", environment)[0] == PROD.servers
    contexts.remember(environment, "", ("https://x:1",))
    assert asyncio.run(resolve("https://c:1", environment)).context == ""


def test_nobody_else_reads_it(environment: dict[str, str]) -> None:
    path = contexts.file_path(environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    with pytest.raises(VerbFailed, match="chmod 600"):
        contexts.load(environment)


def test_a_damaged_file_is_named_and_shows_nothing(environment: dict[str, str]) -> None:
    path = contexts.file_path(environment)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VerbFailed, match=r"contexts\.json is damaged") as refused:
        contexts.load(environment)
    assert TOKEN.secret not in str(refused.value) and TOKEN.secret not in repr(PROD)


def test_a_token_that_is_none_is_not_repeated(environment: dict[str, str]) -> None:
    with pytest.raises(VerbFailed) as refused:
        asyncio.run(resolve("", {**environment, "KAGO_TOKEN": TOKEN.text[:-2]}))
    assert TOKEN.secret[:10] not in str(refused.value)


def test_no_verb_has_servers_of_its_own_that_would_hide_the_contexts() -> None:
    def defaults(group: Any, path: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                found |= defaults(command, f"{path}{name} ")
            for option in command.params:
                if "KAGO_SERVER" in (option.envvar or ()):
                    found[path + name] = option.default
        return found

    found = defaults(typer.main.get_command(app), "")
    assert len(found) > 10
    assert {verb: default for verb, default in found.items() if default} == {}
