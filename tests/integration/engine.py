"""A Docker engine of one's own for tests, and images for it made from the machine's static busybox: no network, no registry.

By hand (root; Debian: apt-get install docker.io busybox-static), which also makes the images of the examples:

    python -m tests.integration.engine /tmp/kago-engine &
    export DOCKER_HOST=unix:///tmp/kago-engine/docker.sock

What it runs, everything below one directory so that no other engine on the machine is touched:

    ip link add kago12345 type bridge && ip addr add 10.222.57.1/24 dev kago12345 && ip link set kago12345 up
    dockerd --data-root DIR/root --exec-root DIR/exec --pidfile DIR/pid -H unix://DIR/docker.sock --bridge kago12345 \
            --iptables=false --ip6tables=false --ip-forward=false

Neither systemd nor a running containerd is needed (dockerd starts its own), cgroup v1 and v2 both do, the storage driver is what
dockerd finds fit (overlay2, else vfs). Containers reach each other and the machine, not the world.
"""

import http
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "sleep", "httpd", "echo", "cat", "tail", "env", "hostname", "id", "true", "false", "wget", "kill", "ls", "date")
SERVE = """CMD ["sh", "-c", "trap 'exit 0' TERM; mkdir -p /www; hostname > /www/index.html; httpd -f -p 80 -h /www & wait"]"""
EXAMPLE_IMAGES = (
    "nginx:alpine",
    "nginx:1.24-alpine",
    "nginx:1.25-alpine",
    "nginx:1.26-alpine",
    "nginx:1.27-alpine",
    "nginx:latest",
    "httpd:alpine",
    "httpd:2.4-alpine",
    "redis:alpine",
    "redis:7-alpine",
    "busybox:latest",
)
START_WITHIN_S = 30.0


def why_none() -> str:
    """Why this machine cannot have an engine of one's own; empty where it can."""
    if os.geteuid() != 0:
        return "needs root to start a private dockerd"
    missing = [program for program in ("dockerd", "ip") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if BUSYBOX.exists() else f"no {BUSYBOX} (busybox-static) to make images from"


class Engine:
    _made = itertools.count()

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self._arguments = arguments
        number, pid = next(Engine._made), os.getpid()
        self._bridge = f"kago{pid % 100_000}x{number}"
        self._address = f"10.{50 + (pid // 250 + number) % 200}.{pid % 250}.1/24"
        self._process: subprocess.Popen[bytes] | None = None
        self._networked = False

    @property
    def host(self) -> str:
        """Value for DOCKER_HOST."""
        return f"unix://{self.directory}/docker.sock"

    def client(self, timeout_s: int = 20) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, version="auto", timeout=timeout_s)

    def start(self) -> None:
        """Returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._networked:
            name = self._bridge
            for command in (f"link add {name} type bridge", f"addr add {self._address} dev {name}", f"link set {name} up"):
                subprocess.run(["ip", *command.split()], check=True)
            self._networked = True
        with open(self.directory / "log", "ab") as log:
            places = ["--data-root", str(self.directory / "root"), "--exec-root", str(self.directory / "exec")]
            ways = ["--pidfile", str(self.directory / "pid"), "-H", self.host, "--bridge", self._bridge]
            network = ["--iptables=false", "--ip6tables=false", "--ip-forward=false"]
            command_line = ["dockerd", *places, *ways, *network, *self._arguments]
            self._process = subprocess.Popen(command_line, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("dockerd did not start:\n" + (self.directory / "log").read_text()[-4000:])
            time.sleep(0.1)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """SIGTERM: it ends its containers unless started with --live-restore."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)
        self._process = None
        if number == signal.SIGKILL:
            # its containerd dies with it, but where init does not reap the dead at once the next dockerd would take it for alive
            for pid_file in ("pid", "exec/containerd/containerd.pid"):
                (self.directory / pid_file).unlink(missing_ok=True)

    def destroy(self) -> None:
        """Stop it and remove every trace."""
        try:
            if self._process is not None:
                self.send(signal.SIGCONT)
                self.stop()
        finally:
            if self._networked:
                subprocess.run(["ip", "link", "delete", self._bridge], check=False)
            for mounted in sorted(Path("/proc/self/mounts").read_text().split("\n"), reverse=True):
                if mounted.count(" ") > 1 and mounted.split(" ")[1].startswith(f"{self.directory}/"):
                    subprocess.run(["umount", "--lazy", mounted.split(" ")[1]], check=False)
            shutil.rmtree(self.directory, ignore_errors=True)

    def make_image(self, reference: str, *changes: str, marker: str = "") -> str:
        """An image of busybox alone; `marker` makes its content, hence its id, another. Returns the id."""
        client = self.client()
        try:
            repository, _, tag = reference.rpartition(":")
            settings = [*(changes or (SERVE,)), "ENV PATH=/bin"]
            client.api.import_image_from_data(busybox(marker), repository=repository, tag=tag, changes=settings)
            return str(client.images.get(reference).id)
        finally:
            client.close()

    def _answers(self) -> bool:
        try:
            client = self.client(5)
        except docker.errors.DockerException:
            return False
        client.close()
        return True


@contextmanager
def private_engine(*arguments: str) -> Iterator[Engine]:
    """A running engine with nothing in it, gone at the end."""
    # a unix socket's path is short by law, hence not pytest's directory
    engine = Engine(Path(tempfile.mkdtemp(prefix="kago-engine-")), *arguments)
    try:
        engine.start()
        yield engine
    finally:
        engine.destroy()


def remove_containers(client: docker.DockerClient, label: str = "") -> None:
    """All of an engine, or those with the label; who goes by itself meanwhile is no error."""
    for there in client.api.containers(all=True, filters={"label": label} if label else None):
        try:
            client.api.remove_container(there["Id"], force=True, v=True)
        except docker.errors.NotFound:
            continue
        except docker.errors.APIError as error:
            if error.status_code != http.HTTPStatus.CONFLICT:  # its removal is under way
                raise


def busybox(marker: str = "") -> bytes:
    """A file system of busybox alone, as a tar archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(BUSYBOX, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        note = tarfile.TarInfo("marker")
        note.size = len(marker)
        archive.addfile(note, io.BytesIO(marker.encode()))
        for name in ("tmp", "www", "etc"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
    return content.getvalue()


def main() -> None:
    if reason := why_none():
        raise SystemExit(reason)
    engine = Engine(Path(sys.argv[1]).resolve())

    def end(number: int, _: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        engine.start()
        for image in EXAMPLE_IMAGES:
            engine.make_image(image, marker=image)
        print(f"export DOCKER_HOST={engine.host}", flush=True)
        while True:
            signal.pause()
    finally:
        engine.destroy()


if __name__ == "__main__":
    main()
