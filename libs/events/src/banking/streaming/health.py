"""What a service lacks at the moment: the state behind `/health/ready`."""

from __future__ import annotations


class Health:
    """Named problems of a service. It is ready when there is none."""

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
        self._problems.update(dict.fromkeys(names, "not seen yet"))

    def report(self, name: str, problem: str) -> None:
        """Note what is wrong with a dependency."""
        self._problems[name] = problem

    def clear(self, name: str) -> None:
        """Note that a dependency is well."""
        self._problems.pop(name, None)
