"""A network that is cut or slow between one service and one server, made in the service's own network namespace."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

_PROXY = Path(__file__).with_name("slow_proxy.py")
_PROXY_PORT = 19_999
_QUICK_SECONDS = 20
PORTS = {"pulsar": 6650, "janusgraph": 8182, "opensearch": 9200}


class Network:
    """The network of a stack's containers. Needs root, for it enters their network namespaces.

    Args:
        stack: Whose.
    """

    def __init__(self, stack):
        self._stack = stack

    @contextmanager
    def cut(self, service, server):
        """Nothing passes between the two, and neither is told so."""
        address = self._address(server)
        with self._rules(service, ["OUTPUT", "-d", address, "-j", "DROP"], ["INPUT", "-s", address, "-j", "DROP"]):
            yield

    @contextmanager
    def slow(self, service, server):
        """What passes between the two goes through a slow proxy; connections that stand are reset before."""
        address = self._address(server)
        pid, port = self._pid(service), PORTS[server]
        # The proxy runs as another user, and goes past the rules by that.
        user = str(Path(f"/proc/{pid}").stat().st_uid)
        of_service = ["OUTPUT", "-p", "tcp", "-d", address, "--dport", str(port), "-m", "owner", "--uid-owner", user]
        proxy = subprocess.Popen(
            [*_enter(pid), sys.executable, str(_PROXY), str(_PROXY_PORT), address, str(port)], stdout=subprocess.PIPE
        )
        try:
            assert proxy.stdout.readline() == b"ready\n"
            with self._rules(
                service,
                ["OUTPUT", "-t", "nat", *of_service[1:], "-j", "REDIRECT", "--to-ports", str(_PROXY_PORT)],
                [*of_service, "-j", "REJECT", "--reject-with", "tcp-reset"],
            ):
                yield
        finally:
            proxy.kill()
            proxy.communicate(timeout=_QUICK_SECONDS)

    @contextmanager
    def _rules(self, service, *rules):
        pid = self._pid(service)
        for rule in rules:
            _iptables(pid, "-I", rule)
        try:
            yield
        finally:
            # A container that was started anew meanwhile has a new namespace, without rules.
            if self._pid(service) == pid:
                for rule in rules:
                    _iptables(pid, "-D", rule)

    def _address(self, server):
        return self._inspect(server, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def _pid(self, service):
        return self._inspect(service, "{{.State.Pid}}")

    def _inspect(self, service, template):
        return self._stack.podman("inspect", "--format", template, self._stack.container(service)).strip()


def _enter(pid):
    return ["nsenter", "--target", pid, "--net"]


def _iptables(pid, action, rule):
    command = [*_enter(pid), "iptables", "--wait", "10", action, *rule]
    subprocess.run(command, check=True, timeout=_QUICK_SECONDS)
