"""Clocks of services that can be set, by libfaketime."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager

_PACKAGE = "libfaketime"
_INSIDE = "/faketime"
_QUICK_SECONDS = 120


class Clocks:
    """The clocks of some services.

    Args:
        services: Whose.
        folder: Where the library and what the clocks show is kept; the containers read it.
    """

    def __init__(self, services, folder):
        self._services = services
        self._folder = folder

    def compose_file(self):
        """A compose file that goes on top of the others; it gives the services their clocks."""
        for service in self._services:
            self._set(service, 0)
        library = self._library()
        services = {
            service: {
                "environment": {
                    "LD_PRELOAD": f"{_INSIDE}/{library}",
                    "FAKETIME_TIMESTAMP_FILE": f"{_INSIDE}/{service}",
                    "FAKETIME_CACHE_DURATION": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                },
                "volumes": [f"{self._folder}:{_INSIDE}:ro"],
            }
            for service in self._services
        }
        # A folder up: what changes in the mounted one makes no container out of date.
        file = self._folder.parent / "clocks.yml"
        file.write_text(json.dumps({"services": services}))
        return file

    @contextmanager
    def wrong(self, service, seconds):
        """The service's clock jumps by so many seconds, and back."""
        self._set(service, seconds)
        try:
            yield
        finally:
            self._set(service, 0)

    def _set(self, service, seconds):
        new = self._folder / f"{service}.new"
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._folder / service)

    def _library(self):
        """The library's path under the folder, out of the distribution's package: nothing is installed for it."""
        subprocess.run(["apt-get", "download", _PACKAGE], cwd=self._folder, check=True, timeout=_QUICK_SECONDS)
        [package] = self._folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=self._folder, check=True, timeout=_QUICK_SECONDS)
        [library] = self._folder.glob("usr/lib/*/faketime/libfaketimeMT.so.1")
        return library.relative_to(self._folder)
