from __future__ import annotations

import pytest


@pytest.fixture
def say(request):
    """Tells whoever watches what goes on."""
    terminal = request.config.get_terminal_writer()
    return lambda line: terminal.line(f"[faults] {line}")
