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
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.addresses import Addresses
from fleet.keyring import Keyring, KeyringError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fleet.keyring import Expiry

PROJECT = "janusgraph-demo"
ROOT = Path(__file__).resolve().parents[4]
COMPOSE_FILE = ROOT / "config" / "compose" / "docker-compose.full.yml"
CASSANDRA_FILE = COMPOSE_FILE.with_name("docker-compose.cassandra.yml")
CLUSTER_FILE = COMPOSE_FILE.with_name("docker-compose.cluster.yml")
SECURE_FILE = COMPOSE_FILE.with_name("docker-compose.secure.yml")
SERVICES = ("producer", "graph_consumer", "vector_consumer", "dlq_worker")
"""The project's own services, built from this checkout."""

SERVERS = ("pulsar", "janusgraph", "opensearch", "prometheus")
"""The servers that every stack has."""

AUDIT = "verify"
"""The audit's service, built from this checkout too."""

# What every image is built from, beside folders of its own; the base image is named in .env.
_SHARED_SOURCES = (ROOT / "pyproject.toml", ROOT / "uv.lock", ROOT / "libs", COMPOSE_FILE.parent / ".env")
_SOURCES = {
    **{service: (ROOT / "services" / service,) for service in SERVICES},
    AUDIT: (
        *(ROOT / "services" / service for service in ("graph_consumer", "vector_consumer", "dlq_worker")),
        ROOT / "tools" / AUDIT,
    ),
}
_STATE = ROOT / ".state"
_SECRETS_VARIABLE = "SECRETS_FOLDER"
_IMAGES_SCRIPT = ROOT / "images" / "build.sh"
_PODMAN_COMPOSE = Path(sys.prefix) / "bin" / "podman-compose"
# What a stack has only with one of the further files; the first tells that it runs.
_CASSANDRA_SERVICES = ("cassandra",)
_CLUSTER_SERVICE = "opensearch-network"
_SECURE_SERVICES = ("opensearch-gate", "provisioner")
# They are ready when they have ended.
_JOBS = frozenset({"provisioner"})
_LOG_LINES = 30
_QUICK_SECONDS = 60.0
_BUILD_SECONDS = 1800.0
_AUDIT_SECONDS = 24 * 3600.0
_LAST_VERDICT = 2  # the highest exit status of an audit
_POLL_SECONDS = 1.0


class Storage(StrEnum):
    """Where JanusGraph keeps the graph."""

    BERKELEYJE = "berkeleyje"
    """In JanusGraph itself."""
    CASSANDRA = "cassandra"


class Security(StrEnum):
    """Who may use a stack."""

    OPEN = "open"
    """Everybody on this host."""
    SECURED = "secured"
    """Who has the token, password or key."""


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
        storage: Where JanusGraph keeps the graph; None is Cassandra where that is running, else in itself. A cluster's
            is in Cassandra.
        security: Who may use it; None is as it is running, else everybody on this host.
        cluster: Whether more than one runs of what can be more than one; None is as it is running, else one of each.
        files: Compose files to put on top of the project's own.
    """

    def __init__(
        self,
        project: str = PROJECT,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _line: None,
        storage: Storage | None = None,
        security: Security | None = None,
        cluster: bool | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.project = project
        self._files = tuple(files)
        self._storage = storage
        self._security = security
        self._cluster = cluster
        self._environment = {**os.environ, **(environment or {})}
        folder = Path(self._environment.get(_SECRETS_VARIABLE) or _STATE / "secrets").absolute()
        self._environment[_SECRETS_VARIABLE] = str(folder)
        self._keyring = Keyring(folder)
        self._say = say

    @cached_property
    def addresses(self) -> Addresses:
        """How it is reached from this host."""
        secrets = self._keyring.operator if self.security is Security.SECURED else None
        return Addresses.from_environment(self._environment, secrets=secrets)

    def up(self, timeout_seconds: float = 300.0) -> None:
        """Build what changed, start what is not running, and wait until everything is ready.

        Raises:
            StackError: A step failed, a container did not become ready in time (it holds the last log lines), or the
                choices do not go together.
        """
        self._check_choices()
        if self.security is Security.SECURED:
            for expiry in self.provide_secrets():
                if expiry.is_soon:
                    self._say(f"{expiry.file} ends on {expiry.ends:%Y-%m-%d}: replace it")
        self.provide_images()
        self._build_services()
        self._remove_outdated()
        self._say("starting")
        self.compose("up", "-d", timeout_seconds=timeout_seconds)
        self.wait_ready(timeout_seconds)

    @property
    def storage(self) -> Storage:
        """Where JanusGraph keeps the graph."""
        if self._storage is None:
            return Storage.CASSANDRA if self.is_cluster or self.containers("cassandra") else Storage.BERKELEYJE
        return self._storage

    @property
    def is_cluster(self) -> bool:
        """Whether more than one runs of what can be more than one."""
        if self._cluster is None:
            return bool(self.containers(_CLUSTER_SERVICE))
        return self._cluster

    @property
    def security(self) -> Security:
        """Who may use it."""
        if self._security is None:
            return Security.SECURED if self.containers(_SECURE_SERVICES[0]) else Security.OPEN
        return self._security

    def provide_images(self) -> None:
        """Pull or build the images of the servers, where they are not there yet."""
        wanted = ["cassandra"] if self.storage is Storage.CASSANDRA else []
        if self.security is Security.SECURED:
            wanted.append("nginx")
        self._stream([str(_IMAGES_SCRIPT), *wanted], _BUILD_SECONDS)

    def provide_secrets(self) -> list[Expiry]:
        """Make the secrets that are missing or end soon; when certificates and tokens end, the next one first.

        Raises:
            StackError: One that was put there by hand does not fit.
        """
        try:
            return self._keyring.ensure()
        except KeyringError as error:
            raise StackError(str(error)) from error

    def image(self, service: str) -> str:
        """The name of the image that this project runs a service from; no other project's build replaces it."""
        return f"localhost/{self.project}/{service}"

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
        # One after the other: a check costs a fifth of a second of CPU, which those that start are short of.
        while waiting:
            container = waiting[0]
            problem = self._problem(container)
            if problem is None:
                waiting.pop(0)
                continue
            if container.service not in told:
                told.add(container.service)
                self._say(f"waiting for {container.service}")
            if time.monotonic() > deadline:
                unready = [container, *(other for other in waiting[1:] if self._problem(other))]
                names = ", ".join(each.service for each in unready)
                raise StackError(
                    f"not ready after {timeout_seconds:.0f} s: {names}\n{container.name}: {problem}\n"
                    f"{self.logs(container.service, container.number)}"
                )
            time.sleep(_POLL_SECONDS)

    def problems(self) -> dict[Container, str | None]:
        """Why each container is not well, by its health check; None where it is."""
        containers = self.containers()
        with ThreadPoolExecutor(max(1, len(containers))) as pool:
            return dict(zip(containers, pool.map(self._problem, containers), strict=True))

    def logs(self, service: str, number: int = 1, lines: int = _LOG_LINES) -> str:
        """The last lines of a container's log."""
        # podman's own `--tail` joins lines that came in one burst.
        tail = 'podman logs "$1" 2>&1 | tail -n "$2"'
        command = ["sh", "-c", tail, "sh", self.container(service, number), str(lines)]
        result = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, check=False, timeout=_QUICK_SECONDS, errors="replace"
        )
        return result.stdout + result.stderr

    def exec(self, service: str, *command: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run a command in a service's container; its standard output."""
        return self.podman("exec", self.container(service), *command, timeout_seconds=timeout_seconds)

    def compose(self, *arguments: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run podman-compose on the project; its standard output."""
        return self._run(self._compose_command(*arguments), timeout_seconds)

    def audit(self, *arguments: str, timeout_seconds: float = _AUDIT_SECONDS) -> int:
        """Run an audit in the container of the audit, its output being this process's; its exit status.

        Raises:
            StackError: That container does not run, or the audit was ended, or did not end in time.
        """
        container = self.container(AUDIT)
        terminal = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        # The limit is kept inside: without a terminal, what podman has started there goes on when podman is ended.
        limit = ["timeout", f"{timeout_seconds:.0f}"]
        command = ["podman", "exec", *terminal, container, *limit, "banking-verify", *arguments]
        result = subprocess.run(command, check=False, env=self._environment)  # noqa: S603 - no shell
        if result.returncode not in range(_LAST_VERDICT + 1):
            # 124: the time was up; 125: podman's own error, which it has said; 130: Ctrl-C; 137: killed.
            raise StackError(f"the audit in {container} came to no end: exit status {result.returncode}")
        return result.returncode

    def _compose_command(self, *arguments: str) -> list[str]:
        files = [COMPOSE_FILE]
        if self.storage is Storage.CASSANDRA:
            files.append(CASSANDRA_FILE)
        if self.is_cluster:
            files.append(CLUSTER_FILE)
        if self.security is Security.SECURED:
            files.append(SECURE_FILE)
        files.extend(self._files)
        options = [option for file in files for option in ("-f", str(file))]
        return [str(_PODMAN_COMPOSE), "-p", self.project, *options, *arguments]

    def _check_choices(self) -> None:
        """Whether what was chosen goes together, and with what runs."""
        if self.is_cluster and self.storage is not Storage.CASSANDRA:
            raise StackError("a cluster keeps its graph in Cassandra: leave STORAGE away")
        if self.is_cluster and self.security is Security.SECURED:
            raise StackError("a cluster is for everybody on this host: there is no secured one")
        if self.containers("opensearch") and bool(self.containers(_CLUSTER_SERVICE)) is not self.is_cluster:
            # Topics, indices and the nodes' own quorum stay as they were made.
            raise StackError("what runs is no cluster, or is one: remove it and its data first, by `make clean`")

    def podman(self, *arguments: str, timeout_seconds: float = _QUICK_SECONDS) -> str:
        """Run podman; its standard output."""
        return self._run(["podman", *arguments], timeout_seconds)

    def _problem(self, container: Container) -> str | None:
        """Why a container is not ready; None when it is."""
        if container.service in _JOBS:
            state = self.podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container.name).strip()
            return None if state == "exited 0" else f"it has not done its work yet ({state})"
        try:
            result = subprocess.run(  # noqa: S603 - no shell
                ["podman", "healthcheck", "run", container.name],  # noqa: S607 - found by PATH
                capture_output=True,
                text=True,
                check=False,
                timeout=_QUICK_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"its health check took longer than {_QUICK_SECONDS:.0f} s"
        output = (result.stdout + result.stderr).strip()
        if result.returncode == 0 or "has no defined healthcheck" in output:
            return None
        return output or "its health check fails"

    def _build_services(self) -> None:
        """Build the images whose sources have changed since; to ask podman's cache takes seconds a service."""
        for service, folders in _SOURCES.items():
            note = _STATE / f"{service}.built"
            sources = _digest((*_SHARED_SOURCES, *folders))
            if note.is_file() and note.read_text() == f"{sources} {self._image_id(service)}":
                continue
            self._say(f"building {service}")
            self.compose("build", service, timeout_seconds=_BUILD_SECONDS)
            _STATE.mkdir(exist_ok=True)
            note.write_text(f"{sources} {self._image_id(service)}")

    def _image_id(self, service: str) -> str:
        images = self.podman("images", "--no-trunc", "--format", "{{.Id}}", f"{self.image(service)}:latest")
        return images.strip()

    def _remove_outdated(self) -> None:
        """Remove containers whose image or mounted configuration has changed since, so that `up` makes them again."""
        # `up --remove-orphans` would do it, but takes all others down when one of them is to be made anew.
        superfluous: list[str] = []
        if self.storage is not Storage.CASSANDRA:
            superfluous.extend(_CASSANDRA_SERVICES)
        if self.security is not Security.SECURED:
            superfluous.extend(_SECURE_SERVICES)
        for container in self.containers():
            if container.service in superfluous:
                self.podman("rm", "-f", "-t", "30", container.name)
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
