"""The tokens by which Pulsar knows a role: JSON Web Tokens, signed by a key whose public half the broker has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

VALIDITY = timedelta(days=397)

_ALGORITHM = "RS256"
_KEY_BITS = 3072


def make_signing_key() -> bytes:
    """A new private key, as PEM."""
    return RSAKey.generate_key(_KEY_BITS).as_pem(private=True)


@lru_cache(maxsize=4)
def _loaded(signing_key: bytes) -> RSAKey:
    # Its numbers are checked, which takes a quarter of a second.
    return RSAKey.import_key(signing_key)


def make_token(signing_key: bytes, role: str, now: datetime) -> str:
    """A token that makes its bearer a role."""
    claims = {"sub": role, "iat": int(now.timestamp()), "exp": int((now + VALIDITY).timestamp())}
    return jwt.encode({"alg": _ALGORITHM}, claims, _loaded(signing_key), algorithms=[_ALGORITHM])


def expiry_of(signing_key: bytes, role: str, token: str) -> datetime | None:
    """When a role's token ends, in UTC; None where it is none of this role or not signed by this key."""
    try:
        claims = jwt.decode(token, _loaded(signing_key), algorithms=[_ALGORITHM]).claims
    except (JoseError, ValueError):
        return None
    if claims.get("sub") != role or not isinstance(claims.get("exp"), int):
        return None
    return datetime.fromtimestamp(claims["exp"], UTC)
