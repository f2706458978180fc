"""Small disks for the servers, which can be full: file systems in memory that are shrunk to what they hold."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack, contextmanager

_SPACE_MEGABYTES = 8192  # BerkeleyJE wants 5 GB free
_SPACE = f"{_SPACE_MEGABYTES}m"
_SERVER_MEGABYTES = 2500  # as in docker-compose.full.yml
_LEFT_BYTES = 1 << 16
_QUICK_SECONDS = 30
# The volumes' owners are the images' users.
_OWNERS = {"pulsar": 10000, "janusgraph": 999, "opensearch": 1000}


class Disks:
    """Volumes of a stack that are not yet there, made on disks of their own. Needs root, for it mounts them.

    Args:
        stack: Whose; it is down.
        folder: Where to mount them.
    """

    def __init__(self, stack, folder):
        self._stack = stack
        self._folder = folder

    def compose_file(self):
        """A compose file that goes on top of the others: what a server has on such a disk counts as its memory."""
        limit = {"mem_limit": f"{_SERVER_MEGABYTES + _SPACE_MEGABYTES}m"}
        file = self._folder / "disks.yml"
        file.write_text(json.dumps({"services": dict.fromkeys(_OWNERS, limit)}))
        return file

    @contextmanager
    def mounted(self):
        """Make the volumes; afterwards, when the stack has removed them, unmount the disks."""
        label = f"io.podman.compose.project={self._stack.project}"
        with ExitStack() as undo:
            for server, owner in _OWNERS.items():
                place = self._place(server)
                place.mkdir()
                options = f"size={_SPACE},uid={owner},gid={owner},mode=0755"
                _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
                undo.callback(_run, "umount", "--lazy", str(place))
                options = [part for name in ("type=none", "o=bind", f"device={place}") for part in ("--opt", name)]
                volume = f"{self._stack.project}_{server}-data"
                self._stack.podman("volume", "create", "--label", label, *options, volume)
            yield

    @contextmanager
    def full(self, server):
        """The server's disk has as good as nothing left."""
        place = self._place(server)
        state = os.statvfs(place)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        _run("mount", "-o", f"remount,size={used + _LEFT_BYTES}", str(place))
        try:
            yield
        finally:
            _run("mount", "-o", f"remount,size={_SPACE}", str(place))

    def _place(self, server):
        return self._folder / server


def _run(*command):
    subprocess.run(command, check=True, timeout=_QUICK_SECONDS)
