"""One agent process, put together: its notes, its runtimes, the worker, the masters and its own port in one task group.

A part that dies takes the process with it, so nothing goes on half; containers run on in every case. Stopping the agent
(SIGTERM, SIGINT) says good-bye to the cluster and leaves the containers running, so that it can be updated under them.
"""

import asyncio
import logging
import os
import random
import signal
from collections.abc import Mapping
from importlib import metadata

import msgspec

from kago.agent.credentials import admitted, renew, servers_of
from kago.agent.masters import CALL_S, Masters, Outdated, Superseded
from kago.agent.notes import DataDirError, Notebook
from kago.agent.port import Health, serve_port
from kago.agent.runtime import ContainerRuntime
from kago.agent.runtimes.docker import DockerRuntime
from kago.agent.runtimes.process import ProcessRuntime
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.join import JoinRefused
from kago.clock import Clock, SystemClock
from kago.config import LOG_FORMAT, AgentConfig
from kago.core.model.deployment import Runtime
from kago.core.model.report import Registration
from kago.security.keyring import Keyring, KeyringError
from kago.security.tokens import Token

logger = logging.getLogger("kago.agent")

SUPERSEDED = 5
"""Exit code of an agent that must not act: another one took its place, or the cluster is not its own or refuses it.

No restart mends any of these, so a service manager must not try."""
AGAIN = -1
"""No exit code: begin a new life in the same process."""


class StartRefused(Exception):
    """The agent cannot start like this; the text says what to do."""


class _Stop(Exception):
    """A signal asked the agent to stop."""


def run(config: AgentConfig, token: Token | None = None) -> None:
    """`kago agent`: the whole process. SystemExit where it cannot (1) or must not (SUPERSEDED) go on."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)  # to stderr; what embeds us and has set up its own keeps it
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if code := asyncio.run(serve_agent(config, token)):
        raise SystemExit(code)


async def serve_agent(config: AgentConfig, token: Token | None = None, *, clock: Clock | None = None) -> int:
    """0: stopped by a signal; 1: it cannot go on; SUPERSEDED: it must not. The reason is in the log."""
    try:
        present, code = clock or SystemClock(), AGAIN
        while code == AGAIN:
            with Notebook(config.data_dir) as notebook:
                known = (*config.masters, *(url for url in notebook.notes.masters if url.startswith("https://")))
                keyring = await admitted(config.data_dir, config.name, known, token, present)
                code = await _serve(config, notebook, present, keyring)
        return code
    except JoinRefused as refusal:
        logger.critical("%s", refusal)
        return SUPERSEDED
    except (DataDirError, StartRefused, KeyringError) as refusal:
        logger.error("%s", refusal)
        return 1


async def choose_runtimes(wanted: Runtime | None, environment: Mapping[str, str], notebook: Notebook) -> dict[Runtime, ContainerRuntime]:
    """What this node offers. An engine that was offered before and is away now is waited for: its containers are still ours."""
    runtimes: dict[Runtime, ContainerRuntime] = {}
    if wanted is not Runtime.PROCESS:
        engine = DockerRuntime(environment)
        why_not = await engine.answers()
        if why_not and Runtime.DOCKER not in notebook.notes.runtimes:
            await engine.close()
            if wanted is Runtime.DOCKER:
                raise StartRefused(f"--runtime docker, but {why_not}; start Docker, set DOCKER_HOST, or use --runtime process")
            logger.info("process runtime only: %s", why_not)
        else:
            runtimes[Runtime.DOCKER] = engine
    if wanted is not Runtime.DOCKER:
        runtimes[Runtime.PROCESS] = ProcessRuntime(notebook.data_dir)
    notebook.notes = msgspec.structs.replace(notebook.notes, runtimes=tuple(sorted(runtimes)))
    return runtimes


async def _serve(config: AgentConfig, notebook: Notebook, clock: Clock, keyring: Keyring | None) -> int:
    runtimes = await choose_runtimes(config.runtime, os.environ, notebook)
    registration = Registration(
        name=config.name,
        id=notebook.notes.agent_id,
        incarnation=notebook.notes.incarnation,
        address=config.address,
        port=config.port,
        capacity=config.capacity,
        labels=config.labels,
        runtimes=tuple(sorted(runtimes)),
        agent_version=_version(),
    )
    judge = servers_of(keyring, notebook) if keyring is not None else None
    tls = keyring.client_context(judge) if keyring is not None and judge is not None else None
    if keyring is not None and (plain := [master for master in config.masters if master.startswith("http://")]):
        raise StartRefused(f"{plain[0]}: this agent is of the secured cluster {keyring.cluster}, which is asked over https alone")
    servers = (*config.masters, *(url for url in notebook.notes.masters if tls is None or url.startswith("https://")))
    async with (
        Client(servers, timeout_s=CALL_S, clock=clock, tls=tls) as telling,
        Client(servers, timeout_s=CALL_S, clock=clock, tls=tls) as watching,
    ):
        worker = Worker(notebook, runtimes, config.name, clock)
        masters = Masters(
            registration, notebook, worker, clock, telling=telling, watching=watching, dice=random.Random(),
            on_removed=keyring.forget_certificate if keyring is not None else _nothing,
        )
        worker.on_reports = masters.news

        def health() -> Health:
            notes = notebook.notes
            return Health(
                node=config.name,
                node_id=notes.agent_id,
                incarnation=notes.incarnation,
                cluster_id=notes.cluster_id,
                master_heard=masters.heard,
            )

        try:
            port_tls = keyring.server_context(judge) if keyring is not None and judge is not None else None
            port = await serve_port(config.host, config.port, health, lambda: tuple(worker.said.values()), port_tls)
        except OSError as error:
            raise StartRefused(f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --port") from error
        code = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_until_signal())
                tasks.create_task(masters.tell())
                tasks.create_task(masters.watch())
                tasks.create_task(worker.run())
                if keyring is not None:
                    tasks.create_task(renew(keyring, telling, clock))
        except* _Stop:
            logger.info("stopping; the containers run on")
            await masters.leave()
        except* Superseded as group:
            reasons = "; ".join(str(one) for one in group.exceptions)
            if group.split(Outdated)[0] is not None:
                logger.warning("%s", reasons)
                code = AGAIN
            else:
                logger.critical("this agent stops acting, its containers are left as they are: %s", reasons)
                code = SUPERSEDED
        finally:
            port.close()
            await worker.save()
            for runtime in runtimes.values():
                await runtime.close()
        return code


async def _until_signal() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    raise _Stop


def _nothing() -> None:
    return


def _version() -> str:
    try:
        return metadata.version("kago")
    except metadata.PackageNotFoundError:
        return ""
