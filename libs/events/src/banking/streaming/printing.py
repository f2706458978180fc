"""Printing what events and letters say to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Without control characters: what stands in an event or a letter must not steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
