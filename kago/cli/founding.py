"""`kago cluster init`, and tokens as they are handed to a process: never needed on a command line, where everybody could read them."""

import os
import sys
import uuid
from pathlib import Path

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.clock import SystemClock
from kago.core.model.token import TokenRole
from kago.security.first import found_cluster
from kago.security.keyring import Keyring, write_private
from kago.security.tokens import BadToken, Token, parse_token

TOKENS_DIRECTORY = "tokens"


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


def init(data_dir: Path, tokens_to: Path | None, *, once: bool) -> None:
    """`kago cluster init`: the tokens on stdout, a line each, and what to do with them on stderr; `once`: a second time is no error."""
    if once and Keyring(data_dir).held:
        note("This was done already.")
        return
    made = found(data_dir, tokens_to)
    note("Start this server now. Others join within a day with these, in KAGO_TOKEN or --token-file of `kago serve` and `kago agent`;")
    note("the last is the administrator's, for `kago context add`. None is shown again, and more are made with `kago token create`.")
    if once and tokens_to is not None:
        return  # for a script, whose output is kept somewhere
    for role, token in made.items():
        say(f"{role.value} {token.text}")
