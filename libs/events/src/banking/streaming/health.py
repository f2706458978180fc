"""What a service lacks at the moment: the state behind `/health/ready`."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)

_NOT_SEEN = "not seen yet"


class Health:
    """Named problems of a service. It is ready when there is none. What comes and goes is logged."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> dict[str, str]:
        """What is missing, by name."""
        return dict(self._problems)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self._problems

    def expect(self, *names: str) -> None:
        """Count dependencies as missing until they are first cleared."""
        self._problems.update(dict.fromkeys(names, _NOT_SEEN))

    def report(self, name: str, problem: str) -> None:
        """Note what is wrong with a dependency."""
        if self._problems.get(name, _NOT_SEEN) == _NOT_SEEN:
            log.warning("missing", dependency=name, problem=problem)
        self._problems[name] = problem

    def clear(self, name: str) -> None:
        """Note that a dependency is well."""
        if self._problems.pop(name, None) is not None:
            log.info("no longer missing", dependency=name)
