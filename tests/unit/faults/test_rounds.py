"""The order of faults: from the seed, each once before any comes again, and two at once never to one container."""

from __future__ import annotations

import random
from itertools import islice

from tests.integration.faults.campaign import rounds
from tests.integration.faults.faults import Fault

FAULTS = {
    "kill a": Fault(print, frozenset({"a"})),
    "cut a from b": Fault(print, frozenset({"a", "b"})),
    "kill b": Fault(print, frozenset({"b"})),
    "kill c": Fault(print, frozenset({"c"})),
    "all": Fault(print, frozenset({"a", "b", "c"})),
}


def one_round(seed):
    """The steps of the first round."""
    endless, steps = rounds(FAULTS, random.Random(seed)), []
    while sum(map(len, steps)) < len(FAULTS):
        steps.append(next(endless))
    return steps


def test_every_fault_comes_once_in_a_round():
    for seed in range(50):
        assert sorted(name for names in one_round(seed) for name in names) == sorted(FAULTS)


def test_what_comes_together_has_no_container_in_common():
    together = {tuple(sorted(names)) for seed in range(200) for names in one_round(seed) if len(names) > 1}
    assert together == {
        ("kill a", "kill b"),
        ("kill a", "kill c"),
        ("kill b", "kill c"),
        ("cut a from b", "kill c"),
        ("kill a", "kill b", "kill c"),
    }


def test_a_seed_decides():
    assert list(islice(rounds(FAULTS, random.Random(7)), 40)) == list(islice(rounds(FAULTS, random.Random(7)), 40))
    assert one_round(7) != one_round(8)
