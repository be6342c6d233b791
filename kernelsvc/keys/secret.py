"""Keys as text, `ks_<id>_<secret>`: made, taken apart and compared.

Stored is the SHA-256 of the secret, and nothing else of it. The slow, salted hashes that passwords
need defend secrets that people choose, which can be guessed; 192 random bits cannot be, however
fast the hash is, and no two keys share a secret that a salt would have to tell apart. A slow hash
would only make every request slow, and cheap to flood the service with.
"""

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

_ID_BYTES = 6
_SECRET_BYTES = 24
_KEY = re.compile(f"ks_([0-9a-f]{{{2 * _ID_BYTES}}})_([0-9a-f]{{{2 * _SECRET_BYTES}}})", re.ASCII)


class KeyText(NamedTuple):
    """The parts of a key."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"ks_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"KeyText({self.id!r})"


def new_key() -> KeyText:
    """A key that nobody has: 48 random bits to find it by, 192 to prove it."""
    return KeyText(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))


def parse_key(text: str) -> KeyText | None:
    """The parts of a key; None where the text is no key of this form."""
    match = _KEY.fullmatch(text)
    return KeyText(match[1], match[2]) if match else None


def hashed(secret: str) -> str:
    """What is stored of a secret: its SHA-256, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, secret_hash: str) -> bool:
    """Whether this is the secret that was hashed, in a time that does not tell how nearly."""
    return hmac.compare_digest(hashed(secret), secret_hash)
