"""What a service lacks at the moment: the state behind `/health/ready`."""

from __future__ import annotations


class Health:
    """Named problems of a service. It is ready when there is none.

    Args:
        waiting_for: Names that count as problems until they are first cleared.
    """

    def __init__(self, *waiting_for: str) -> None:
        self._problems: dict[str, str] = dict.fromkeys(waiting_for, "not seen yet")

    @property
    def problems(self) -> dict[str, str]:
        """What is missing, by name."""
        return dict(self._problems)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self._problems

    def report(self, name: str, problem: str) -> None:
        """Note what is wrong with a dependency."""
        self._problems[name] = problem

    def clear(self, name: str) -> None:
        """Note that a dependency is well."""
        self._problems.pop(name, None)
