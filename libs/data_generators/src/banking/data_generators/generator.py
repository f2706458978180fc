"""What the five generators have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from banking.data_generators.population import Counts, Population

if TYPE_CHECKING:
    from collections.abc import Iterator

_Entity_co = TypeVar("_Entity_co", covariant=True)


class EntityGenerator(Generic[_Entity_co]):
    """Makes the entities of one type, one after the other or any of them by its number.

    Generators of the same seed and counts make one coherent population: whatever an entity names is made, under that
    id, by the generator of its type.

    Args:
        seed: Any integer.
        counts: How many entities of each type the population has; what entities name lies within them. The default is
            the one of `Counts`.
    """

    def __init__(self, seed: int = 42, counts: Counts | None = None) -> None:
        self.population = Population(seed, counts)
        self._next = 0

    def generate(self) -> _Entity_co:
        """The next entity, beginning with number 0. It does not end: past the count, no other entity names it."""
        entity = self.at(self._next)
        self._next += 1
        return entity

    def at(self, index: int) -> _Entity_co:
        """The entity of that number; the same one whenever it is asked for."""
        raise NotImplementedError

    def stream(self, count: int) -> Iterator[_Entity_co]:
        """The first `count` entities, with constant memory."""
        return map(self.at, range(count))
