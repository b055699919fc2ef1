"""A harness whose cluster is secured: its CA made by `kago cluster init`, its agents let in by tokens, its user an administrator."""

import shutil
from pathlib import Path

import httpx

from kago.client.join import user_context
from kago.core.model.token import TokenRole
from kago.security.keyring import DIRECTORY
from tests.e2e.harness import LOOPBACK, Harness


class SecuredHarness(Harness):
    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"https://{LOOPBACK}:{port}" for port in self.ports.api)

    def data(self, n: int) -> Path:
        """Data directory of the n-th server."""
        return self.directory / self.servers[n].name

    def found(self) -> None:
        """Servers of one machine share its address, so that those that join could not find the first: they are given the CA by hand."""
        self.init(self.data(0))
        for n in range(1, len(self.servers)):
            shutil.copytree(self.data(0) / DIRECTORY, self.data(n) / DIRECTORY)

    def init(self, data_dir: Path) -> None:
        """`kago cluster init` there; from now on we ask as its administrator, and agents that start have its token."""
        tokens = self.directory / f"tokens-{len(list(self.directory.glob('tokens-*')))}"
        self.kago("cluster", "init", "--data-dir", str(data_dir), "--tokens-to", str(tokens))
        self.identity = {"KAGO_TOKEN": (tokens / TokenRole.ADMIN).read_text().strip(), "XDG_CONFIG_HOME": str(self.directory / "config")}
        for agent in self.agents:
            agent.environment["KAGO_TOKEN_FILE"] = str(tokens / TokenRole.AGENT)
        self.ask_as(self.identity["KAGO_TOKEN"], (tokens / "ca.pem").read_bytes())

    def ask_as(self, token: str, ca_pem: bytes, *, verify_flags: int = 0) -> None:
        self.http.close()
        verify = user_context(ca_pem)
        verify.verify_flags |= verify_flags
        self.http = httpx.Client(trust_env=False, timeout=10.0, verify=verify, headers={"authorization": f"Bearer {token}"})

    def known_as(self, role: str) -> str:
        """A new user's token."""
        return self.kago("token", "create", "--role", role, "--ttl", "1h").strip()

    def may(self, token: str, *verb: str) -> bool:
        """Whether that user gets an answer."""
        before, self.identity = self.identity, {**self.identity, "KAGO_TOKEN": token}
        try:
            self.kago(*verb)
        except AssertionError:
            return False
        finally:
            self.identity = before
        return True
