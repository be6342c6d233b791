"""The signature of a callback: HMAC-SHA256 over its time stamp, a dot and its body."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

_SECRET_BYTES = 32


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of the header; `timestamp` is in seconds since 1970, as the other header has it."""
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def stored_secret(path: Path) -> str:
    """The secret in that file, made where there is none; blocks. Raises OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        file.write(secret := secrets.token_hex(_SECRET_BYTES))
    return secret
