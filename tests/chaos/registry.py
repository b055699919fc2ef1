"""A registry of images on loopback, so that pulls can be killed."""

import shutil
import socket
import subprocess
from pathlib import Path

from tests.integration.engine import Engine


def why_none() -> str:
    return "" if shutil.which("docker-registry") else "not installed: docker-registry"


class Registry:
    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = directory / "registry.yml"
        store = directory / "registry"
        settings.write_text(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {store}\nhttp:\n  addr: {self.address}\n")
        with open(directory / "registry.log", "wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=log, stderr=log)

    def publish(self, engine: Engine, name: str) -> str:
        """Make an image of that name and push it; its reference."""
        reference = f"{self.address}/{name}"
        engine.make_image(reference, marker=name)
        client = engine.client()
        for line in client.images.push(reference, stream=True, decode=True):
            if "error" in line:
                raise RuntimeError(line["error"])
        client.close()
        return reference

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
