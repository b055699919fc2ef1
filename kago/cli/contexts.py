"""Which clusters a user knows, and as whom: a file of contexts, and what a verb ends up with from flag, environment, context and default.

The file holds tokens, so nobody else may read it.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from ssl import SSLContext

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kago.cli.failures import Code, VerbFailed
from kago.client.errors import Unreachable
from kago.client.join import JoinRefused, fetch_ca, user_context
from kago.config import DEFAULT_SERVER
from kago.security.keyring import write_private
from kago.security.tokens import BadToken, Token, parse_token

FILE = "contexts.json"


class Context(Struct, frozen=True, kw_only=True, omit_defaults=True):
    servers: tuple[str, ...]
    learnt: tuple[str, ...] = ()
    """What else the cluster named when it was last asked: servers come and go."""
    ca: str = ""
    """PEM; empty where the cluster is not secured."""
    token: str = ""

    def __repr__(self) -> str:
        return f"<context of {','.join(self.servers)}>"


class Contexts(Struct, frozen=True, kw_only=True):
    current: str = ""
    contexts: dict[str, Context] = {}


class Access(Struct, frozen=True, kw_only=True):
    """What a verb works with."""

    servers: tuple[str, ...]
    ca: bytes = b""
    token: Token | None = None
    context: str = ""
    """Name of the context the servers are from."""

    @property
    def tls(self) -> SSLContext | None:
        return user_context(self.ca) if self.ca else None


def file_path(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or Path.home()) / ".config"
    return Path(base) / "kago" / FILE


def load(environment: Mapping[str, str]) -> Contexts:
    """VerbFailed where the file is damaged, or others may read it."""
    path = file_path(environment)
    try:
        content = path.read_bytes()
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise VerbFailed(f"{path} holds tokens, but others may read it: chmod 600 it")
        return msgspec.json.decode(content, type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except msgspec.MsgspecError as error:
        raise VerbFailed(f"{path} is damaged: {error}") from None


def save(environment: Mapping[str, str], contexts: Contexts) -> None:
    path = file_path(environment)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")


async def resolve(servers: str, environment: Mapping[str, str]) -> Access:
    """`servers` is the flag or its variable, empty where neither was given. VerbFailed, ClientError."""
    given = tuple(part.strip() for part in servers.split(",") if part.strip())
    name, context = _chosen(environment)
    urls = given or ((*context.servers, *context.learnt) if context else ()) or (DEFAULT_SERVER,)
    name = "" if given else name
    secured = tuple(url for url in urls if not url.startswith("http://"))
    if text := environment.get("KAGO_TOKEN", ""):
        token = _parsed(text)
        if context is not None and context.ca and not given:
            return Access(servers=urls, ca=context.ca.encode(), token=token, context=name)
        return Access(servers=secured, ca=await fetch_ca(secured, token), token=token) if secured else Access(servers=urls)
    if context is None or not context.ca or not secured:
        return Access(servers=urls, context=name)
    kept = _parsed(context.token) if context.token else None
    return Access(servers=secured, ca=context.ca.encode(), token=kept, context=name)


async def add(environment: Mapping[str, str], name: str, servers: tuple[str, ...], token: Token | None, *, use: bool) -> None:
    """Remember a cluster; of a secured one the CA that the token names, asked of its servers. VerbFailed."""
    known = load(environment)
    ca = b""
    if token is not None:
        try:
            ca = await fetch_ca(servers, token)
        except (Unreachable, JoinRefused) as error:
            raise VerbFailed(str(error), Code.NO_SERVER if isinstance(error, Unreachable) else Code.ERROR) from None
    context = Context(servers=servers, ca=ca.decode(), token=token.text if token is not None else "")
    current = name if use or not known.current else known.current
    save(environment, Contexts(current=current, contexts={**known.contexts, name: context}))


def keep_new(environment: Mapping[str, str], name: str, context: Context) -> bool:
    """Remember a context, used from now on if none was; False where there is one of that name, which stays. VerbFailed, OSError."""
    known = load(environment)
    if name in known.contexts:
        return False
    save(environment, Contexts(current=known.current or name, contexts={**known.contexts, name: context}))
    return True


def use(environment: Mapping[str, str], name: str) -> None:
    known = load(environment)
    _existing(known, name)
    save(environment, replace(known, current=name))


def remove(environment: Mapping[str, str], name: str) -> None:
    known = load(environment)
    _existing(known, name)
    left = {other: context for other, context in known.contexts.items() if other != name}
    save(environment, Contexts(current="" if known.current == name else known.current, contexts=left))


def remember(environment: Mapping[str, str], name: str, announced: tuple[str, ...]) -> None:
    """Keep the cluster's own list of servers beside those its user gave, so that the context outlives them."""
    known = load(environment)
    context = known.contexts.get(name)
    if context is None or not announced:
        return
    usable = (server for server in announced if server.startswith("https://") or not context.ca)
    learnt = tuple(server for server in usable if server not in context.servers)
    if learnt != context.learnt:
        save(environment, replace(known, contexts={**known.contexts, name: replace(context, learnt=learnt)}))


def _chosen(environment: Mapping[str, str]) -> tuple[str, Context | None]:
    known = load(environment)
    name = environment.get("KAGO_CONTEXT") or known.current
    return name, _existing(known, name) if name else None


def _existing(known: Contexts, name: str) -> Context:
    if name not in known.contexts:
        there = f"there are {', '.join(sorted(known.contexts))}" if known.contexts else "there is none yet: kago context add"
        raise VerbFailed(f"there is no context {name!r}; {there}", Code.NOT_FOUND)
    return known.contexts[name]


def _parsed(text: str) -> Token:
    try:
        return parse_token(text)
    except BadToken as error:
        raise VerbFailed(f"KAGO_TOKEN or the context's token: {error}", Code.USAGE) from None
