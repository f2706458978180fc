"""API keys: read from a secret file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MIN_KEY_CHARACTERS = 16


class ApiKeys:
    """The keys that callers may use.

    Args:
        keys: The keys. Only their digests are kept.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """The keys in a file: one a line; blank lines and those that begin with `#` are none.

        Raises:
            ValueError: The file cannot be read, holds no key, or a key shorter than `MIN_KEY_CHARACTERS`.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
        if not keys:
            raise ValueError("holds no key")
        if min(map(len, keys)) < MIN_KEY_CHARACTERS:
            raise ValueError(f"holds a key of fewer than {MIN_KEY_CHARACTERS} characters")
        return cls(keys)

    def caller(self, authorization: str | None) -> str | None:
        """Who calls, as the hex digest of the key that an `Authorization` header carries as `Bearer <key>`.

        It takes equally long for every wrong key: each is compared by its digest with all of them.

        Returns:
            None where it carries none of the keys.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, held) for held in self._digests]
        return digest.hex() if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
