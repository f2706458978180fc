"""One compose project: bring it up, look at it, disturb it, take it down. The command line and the tests use it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.addresses import Addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROJECT = "janusgraph-demo"
ROOT = Path(__file__).resolve().parents[4]
COMPOSE_FILE = ROOT / "config" / "compose" / "docker-compose.full.yml"
SERVICES = ("producer", "graph_consumer", "vector_consumer", "dlq_worker")
"""The project's own services, built from this checkout."""

# What every service's image is built from, beside its own folder; the base image is named in .env.
_SHARED_SOURCES = (ROOT / "pyproject.toml", ROOT / "uv.lock", ROOT / "libs", COMPOSE_FILE.parent / ".env")
_STATE = ROOT / ".state"
_IMAGES_SCRIPT = ROOT / "images" / "build.sh"
_PODMAN_COMPOSE = Path(sys.prefix) / "bin" / "podman-compose"
_LOG_LINES = 30
_QUICK_SECONDS = 60.0
_BUILD_SECONDS = 1800.0
_POLL_SECONDS = 1.0


class StackError(Exception):
    """A step that failed; the message holds the command's or the container's last lines."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the project.

    Attributes:
        name: Such as `janusgraph-demo_pulsar_1`.
        service: Such as `pulsar`.
        state: Podman's word for it: `running`, `exited`, `paused`, …
        image_id: What it was made from.
        started: When it was last started, in seconds since 1970.
    """

    name: str
    service: str
    state: str
    image_id: str
    started: int

    @property
    def number(self) -> int:
        """Its place among the service's replicas, from 1."""
        return int(self.name.rsplit("_", 1)[-1])


class Stack:
    """The containers, network and volumes of one compose project.

    Args:
        project: The project's name; all it makes is named after it.
        environment: Variables for the compose file, such as `PULSAR_PORT`, beside the process's own.
        say: Told what takes long.
    """

    def __init__(
        self,
        project: str = PROJECT,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.project = project
        self._environment = {**os.environ, **(environment or {})}
        self._say = say
        self.addresses = Addresses.from_environment(self._environment)

    def up(self, timeout_seconds: float = 300.0) -> None:
        """Build what changed, start what is not running, and wait until everything is ready.

        Raises:
            StackError: A step failed, or a container did not become ready in time; it holds the last log lines.
        """
        self._stream([str(_IMAGES_SCRIPT)], _BUILD_SECONDS)
        self._build_services()
        self._remove_outdated()
        self._say("starting")
        self.compose("up", "-d", timeout_seconds=timeout_seconds)
        self.wait_ready(timeout_seconds)

    def down(self, *, volumes: bool = False) -> None:
        """Remove the containers and the network, and with `volumes` the data too."""
        self.compose("down", "--remove-orphans", *(["-v"] if volumes else []), timeout_seconds=180.0)
        # What an interrupted `up` or a scaled service left, compose no longer knows.
        leftovers = [container.name for container in self.containers()]
        if leftovers:
            self.podman("rm", "-f", "-t", "10", *leftovers)
        if volumes:
            names = self.podman("volume", "ls", "-q", "--filter", f"label=io.podman.compose.project={self.project}")
            for name in names.split():
                self.podman("volume", "rm", "-f", name)

    def scale(self, service: str, replicas: int, timeout_seconds: float = 120.0) -> None:
        """Run that many replicas of a service and wait until they are ready.

        Raises:
            StackError: It publishes a host port, or a replica did not become ready.
        """
        if service not in SERVICES or service == "producer":
            scalable = ", ".join(name for name in SERVICES if name != "producer")
            raise StackError(f"{service} does not scale; these do: {scalable}")
        for container in self.containers(service):
            if container.number > replicas:
                self.podman("rm", "-f", "-t", "30", container.name)
        if replicas:
            self.compose("up", "-d", "--scale", f"{service}={replicas}", service, timeout_seconds=timeout_seconds)
            self.wait_ready(timeout_seconds, services=[service])

    def containers(self, service: str | None = None) -> list[Container]:
        """The project's containers, stopped ones too, by service and number."""
        label = f"label=io.podman.compose.project={self.project}"
        entries: list[dict[str, Any]] = json.loads(
            self.podman("ps", "-a", "--filter", label, "--format", "json") or "[]"
        )
        found = [
            Container(
                name=entry["Names"][0],
                service=entry["Labels"]["com.docker.compose.service"],
                state=entry["State"],
                image_id=entry["ImageID"],
                started=int(entry["StartedAt"]),
            )
            for entry in entries
        ]
        chosen = [container for container in found if service in {None, container.service}]
        return sorted(chosen, key=lambda container: (container.service, container.number))

    def container(self, service: str, number: int = 1) -> str:
        """The name of a service's container."""
        return f"{self.project}_{service}_{number}"

    def restart(self, service: str, number: int = 1) -> None:
        """Stop a container as its operator would, and start it again."""
        self.podman("restart", "-t", "30", self.container(service, number))

    def pause(self, service: str, number: int = 1) -> None:
        """Freeze a container's processes."""
        self.podman("pause", self.container(service, number))

    def unpause(self, service: str, number: int = 1) -> None:
        """Let a frozen container go on."""
        self.podman("unpause", self.container(service, number))

    def kill_process(self, service: str, number: int = 1) -> None:
        """`kill -9` the container's process, as the kernel would; the restart policy brings it back."""
        pid = self.podman("inspect", "--format", "{{.State.Pid}}", self.container(service, number)).strip()
        self._run(["kill", "-9", pid], _QUICK_SECONDS)

    def wait_ready(self, timeout_seconds: float, services: Sequence[str] | None = None) -> None:
        """Wait until each container's health check succeeds.

        Raises:
            StackError: One did not become ready in time; it holds that container's last log lines.
        """
        deadline = time.monotonic() + timeout_seconds
        waiting = [container for container in self.containers() if services is None or container.service in services]
        if not waiting:
            raise StackError(f"{self.project}: nothing is running")
        told: set[str] = set()
        with ThreadPoolExecutor(len(waiting)) as pool:
            while True:
                problems = list(pool.map(lambda container: self._problem(container.name), waiting))
                still = [pair for pair in zip(waiting, problems, strict=True) if pair[1] is not None]
                waiting = [container for container, _ in still]
                if not waiting:
                    return
                names = ", ".join(container.service for container in waiting)
                if names not in told:
                    told.add(names)
                    self._say(f"waiting for {names}")
                if time.monotonic() > deadline:
                    container, problem = still[0]
                    raise StackError(
                        f"not ready after {timeout_seconds:.0f} s: {names}\n{container.name}: {problem}\n"
                        f"{self.logs(container.service, container.number)}"
                    )
                time.sleep(_POLL_SECONDS)

    def logs(self, service: str, number: int = 1, lines: int = _LOG_LINES) -> str:
        """The last lines of a container's log."""
        command = ["podman", "logs", "--tail", str(lines), self.container(service, number)]
        result = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, check=False, timeout=_QUICK_SECONDS, errors="replace"
        )
        return result.stdout + result.stderr

    def exec(self, service: str, *command: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run a command in a service's container; its standard output."""
        return self.podman("exec", self.container(service), *command, timeout_seconds=timeout_seconds)

    def compose(self, *arguments: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run podman-compose on the project; its standard output."""
        command = [str(_PODMAN_COMPOSE), "-p", self.project, "-f", str(COMPOSE_FILE), *arguments]
        return self._run(command, timeout_seconds)

    def podman(self, *arguments: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run podman; its standard output."""
        return self._run(["podman", *arguments], timeout_seconds)

    def _problem(self, container: str) -> str | None:
        """Why a container is not ready; None when it is."""
        result = subprocess.run(  # noqa: S603 - no shell
            ["podman", "healthcheck", "run", container],  # noqa: S607 - found by PATH
            capture_output=True,
            text=True,
            check=False,
            timeout=_QUICK_SECONDS,
        )
        output = (result.stdout + result.stderr).strip()
        if result.returncode == 0 or "has no defined healthcheck" in output:
            return None
        return output or "its health check fails"

    def _build_services(self) -> None:
        """Build the services whose sources have changed since; to ask podman's cache takes seconds a service."""
        for service in SERVICES:
            note = _STATE / f"{service}.built"
            sources = _digest((*_SHARED_SOURCES, ROOT / "services" / service))
            if note.is_file() and note.read_text() == f"{sources} {self._image_id(service)}":
                continue
            self._say(f"building {service}")
            self.compose("build", service, timeout_seconds=_BUILD_SECONDS)
            _STATE.mkdir(exist_ok=True)
            note.write_text(f"{sources} {self._image_id(service)}")

    def _image_id(self, service: str) -> str:
        images = self.podman("images", "--no-trunc", "--format", "{{.Id}}", f"localhost/banking/{service}:latest")
        return images.strip()

    def _remove_outdated(self) -> None:
        """Remove containers whose image or mounted configuration has changed since, so that `up` makes them again."""
        for container in self.containers():
            [found] = json.loads(self.podman("inspect", container.name))
            current = self.podman("image", "inspect", "--format", "{{.Id}}", found["ImageName"]).strip()
            mounted = [Path(mount["Source"]) for mount in found["Mounts"] if mount["Type"] == "bind"]
            if container.image_id != current or last_change(mounted) > container.started:
                self._say(f"{container.name} is out of date: making it anew")
                self.podman("rm", "-f", "-t", "30", container.name)

    def _stream(self, command: Sequence[str], timeout_seconds: float) -> None:
        """Run a command that shows by itself what it does."""
        try:
            subprocess.run(command, check=True, env=self._environment, timeout=timeout_seconds)  # noqa: S603 - no shell
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise StackError(str(error)) from error

    def _run(self, command: Sequence[str], timeout_seconds: float) -> str:
        try:
            result = subprocess.run(  # noqa: S603 - no shell
                command,
                capture_output=True,
                text=True,
                check=False,
                cwd=COMPOSE_FILE.parent,
                env=self._environment,
                errors="replace",
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{' '.join(command)}: no end after {timeout_seconds:.0f} s") from error
        if result.returncode != 0:
            lines = (result.stdout + result.stderr).splitlines()[-_LOG_LINES:]
            raise StackError(f"{' '.join(command)}: exit status {result.returncode}\n" + "\n".join(lines))
        return result.stdout


def last_change(paths: Sequence[Path]) -> float:
    """When a file of these files and folders was last written, in seconds since 1970; 0 where there is none."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _digest(sources: Sequence[Path]) -> str:
    """A hash of files and folders: names and contents."""
    digest = hashlib.sha256()
    for source in sources:
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
