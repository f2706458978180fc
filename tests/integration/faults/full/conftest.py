"""A stack for every fault: its servers have small disks, its consumers' clocks can be set."""

from __future__ import annotations

import pytest

from fleet.compose import Stack
from tests.integration.conftest import ENVIRONMENT, PROJECT, running
from tests.integration.faults.clocks import Clocks
from tests.integration.faults.disks import Disks
from tests.integration.faults.faults import CONSUMERS, Faults


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder that other users' processes can read."""
    folder = tmp_path_factory.mktemp("faults")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def clocks(folder):
    (folder / "clocks").mkdir(mode=0o755)
    return Clocks(CONSUMERS, folder / "clocks")


@pytest.fixture(scope="session")
def disks(folder):
    return Disks(Stack(PROJECT, ENVIRONMENT), folder)


@pytest.fixture(scope="session")
def stack(request, clocks, disks):
    terminal = request.config.get_terminal_writer()
    files = [clocks.compose_file(), disks.compose_file()]
    stack = Stack(PROJECT, ENVIRONMENT, say=lambda line: terminal.line(f"[stack] {line}"), files=files)
    stack.down(volumes=True)
    with disks.mounted():
        try:
            # Kept, for its volumes are there before it is.
            with running(stack, keep=True):
                yield stack
        finally:
            stack.down(volumes=True)


@pytest.fixture
def faults(stack, disks, clocks):
    return Faults(stack, disks, clocks)
