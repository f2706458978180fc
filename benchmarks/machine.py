"""What a stack's containers use of the machine, by their processes, and what machine it is."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.compose import Stack

_PROCESSES = Path("/proc")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_CONTAINER_ID = re.compile(r"libpod-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between two moments.

    Attributes:
        seconds: How long that was.
        cpu_seconds: CPU time by service, replicas together; `benchmark` is this process.
    """

    seconds: float
    cpu_seconds: dict[str, float]

    def share(self, service: str) -> float:
        """A service's share of the machine's CPU time."""
        return self.cpu_seconds[service] / self.seconds / (os.cpu_count() or 1)


class Meter:
    """Reads what the processes of the containers that run now have used.

    Args:
        stack: Whose.
    """

    def __init__(self, stack: Stack) -> None:
        ids = {
            stack.podman("inspect", "--format", "{{.Id}}", container.name).strip(): container.service
            for container in stack.containers()
            if container.state == "running"
        }
        # By service, then by replica.
        self._processes: dict[str, dict[str, list[Path]]] = {}
        for process in _PROCESSES.glob("[0-9]*"):
            for container_id in ids.keys() & set(_containers_of(process)):
                self._processes.setdefault(ids[container_id], {}).setdefault(container_id, []).append(process)
        self._started = time.perf_counter()
        self._before = self._cpu_seconds()

    def read(self) -> Usage:
        """What was used since the meter was made."""
        seconds = time.perf_counter() - self._started
        now = self._cpu_seconds()
        return Usage(seconds, {service: now[service] - self._before[service] for service in now})

    def peak_bytes(self) -> dict[str, int]:
        """The most memory that a replica of each service has had resident since it was started."""
        return {
            service: max(sum(map(_peak_bytes, processes)) for processes in replicas.values())
            for service, replicas in self._processes.items()
        }

    def _cpu_seconds(self) -> dict[str, float]:
        used = {
            service: sum(_cpu_seconds(process) for processes in replicas.values() for process in processes)
            for service, replicas in self._processes.items()
        }
        return {**used, "benchmark": time.process_time()}


def _containers_of(process: Path) -> list[str]:
    """The ids that its control group's name holds, whichever version of those the system has."""
    return _CONTAINER_ID.findall(_read(process / "cgroup"))


def _cpu_seconds(process: Path) -> float:
    """In user and in system mode; nothing of a process that has ended, such as a health check."""
    fields = _read(process / "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _peak_bytes(process: Path) -> int:
    found = _PEAK.search(_read(process / "status"))
    return int(found[1]) * 1024 if found else 0


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""  # the process has ended


def describe() -> dict[str, str | int]:
    """The machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count() or 0,
        "memory_gib": round(memory / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
