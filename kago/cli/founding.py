"""`kago cluster init`, and tokens as they are handed to a process: never needed on a command line, where everybody could read them."""

import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from msgspec import UNSET

from kago.cli.console import note, say
from kago.cli.contexts import Context, keep_new, load
from kago.cli.failures import Code, VerbFailed
from kago.cli.serving import primary_address
from kago.clock import SystemClock
from kago.core.model.cluster import Cluster
from kago.core.model.token import TokenRole
from kago.security.first import found_cluster
from kago.security.keyring import Keyring, write_private
from kago.security.tokens import BadToken, Token, parse_token

TOKENS_DIRECTORY = "tokens"
CONTEXT = "default"
"""What `kago cluster init` calls the cluster it begins."""


def read_token(text: str, path: Path | None) -> Token | None:
    """From --token or KAGO_TOKEN, else from --token-file; None where neither is given. VerbFailed (usage)."""
    if text and any(text in word for word in sys.argv):
        note("warning: everybody on this machine can read a token on a command line (ps); give it in KAGO_TOKEN or --token-file.")
    source = "KAGO_TOKEN or --token"
    if not text and path is not None:
        source = str(path)
        try:
            text = path.read_text()
        except FileNotFoundError:
            note(f"warning: there is no {path}; that matters only to a machine that has not joined yet.")
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise VerbFailed(f"{path}: {getattr(error, 'strerror', None) or 'not a token'}", Code.USAGE) from None
    os.environ.pop("KAGO_TOKEN", None)  # whatever we start need not have it
    if not text.strip():
        return None
    try:
        return parse_token(text)
    except BadToken as error:
        raise VerbFailed(f"{source}: {error}", Code.USAGE) from None


def found(data_dir: Path, tokens_to: Path | None = None) -> dict[TokenRole, Token]:
    """Give the server of `data_dir` a new cluster's CA; the first tokens also as files, where a directory is named."""
    keyring = Keyring(data_dir)
    made = found_cluster(keyring, uuid.uuid4().hex[:16], now=SystemClock().now())
    if tokens_to is not None:
        tokens_to.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role, token in made.items():
            write_private(tokens_to / role.value, token.text.encode() + b"\n")
        write_private(tokens_to / "ca.pem", keyring.ca_pem)
    note(f"The CA of cluster {keyring.cluster} is in {keyring.directory}: who can read it can make any certificate of the cluster.")
    return made


def found_once(data_dir: Path) -> None:
    """`kago serve --init`: at the first start alone; the tokens go to files, as a server's output ends up in logs."""
    if Keyring(data_dir).held:
        return
    tokens_to = Keyring(data_dir).directory / TOKENS_DIRECTORY
    found(data_dir, tokens_to)
    note(f"Tokens for servers and agents to join with, good for a day, and one for the administrator are in {tokens_to}.")


def note_authority(data_dir: Path, cluster: Cluster) -> None:
    """Say whom a cluster that begins again will believe: the state is one thing, the CA in the data directory another. KeyringError."""
    if cluster.tokens_of is UNSET:
        return
    keyring = Keyring(data_dir)
    if not keyring.held:
        note(
            f"It was secured, and its CA is not here: put a copy of a server's tls directory at {keyring.directory}. If there "
            f"is none, make a new one: kago cluster init --data-dir {data_dir}. Then users and agents need new tokens: start the server "
            "with a --node-lease of 10m until the agents have joined with theirs, so that their pods are left where they run."
        )
    elif keyring.cluster != cluster.tokens_of:
        note(f"The CA in {keyring.directory} is another than the state's: users and agents need new tokens.")
    else:
        note("Its CA is there, so users and agents come back as they are; what was revoked or removed since this state must be so again.")


def init(data_dir: Path, tokens_to: Path | None, *, once: bool, port: int, environment: Mapping[str, str]) -> None:
    """`kago cluster init`: the tokens on stdout, a line each, and what to do with them on stderr; `once`: a second time is no error.

    Whoever does it by hand can go on at once: a context for the server here is kept, unless there is one of that name."""
    if once and Keyring(data_dir).held:
        note("This was done already.")
        return
    made = found(data_dir, tokens_to)
    note("Start this server now. Others join within a day with these, in KAGO_TOKEN or --token-file of `kago serve` and `kago agent`;")
    note("the last is the administrator's, for `kago context add`. None is shown again, and more are made with `kago token create`.")
    if not once:
        _keep_context(Keyring(data_dir), made[TokenRole.ADMIN], port, environment)
    if once and tokens_to is not None:
        return  # for a script, whose output is kept somewhere
    for role, token in made.items():
        say(f"{role.value} {token.text}")


def _keep_context(keyring: Keyring, admin: Token, port: int, environment: Mapping[str, str]) -> None:
    servers = tuple(f"https://{host}:{port}" for host in dict.fromkeys(("localhost", primary_address())))
    context = Context(servers=servers, ca=keyring.ca_pem.decode(), token=admin.text)
    try:
        if not keep_new(environment, CONTEXT, context):
            note(f"There is a context {CONTEXT!r} already, which is left as it is: for this cluster there is `kago context add`.")
        elif (in_use := load(environment).current) != CONTEXT:
            note(f"Context {CONTEXT!r} is this cluster as its administrator; {in_use!r} stays in use: `kago context use {CONTEXT}`.")
        else:
            note(f"Context {CONTEXT!r} is this cluster as its administrator, and in use: `kago get nodes` asks {servers[0]}.")
    except (OSError, VerbFailed) as error:
        note(f"warning: no context was made: {error}")
