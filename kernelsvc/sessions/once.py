"""Requests that a client may repeat without repeating what they do: those with a key."""

from hashlib import sha256

from pydantic import BaseModel

from kernelsvc.models.caller import Caller
from kernelsvc.store.accepted import KeyUse


def key_use(caller: Caller, key: str, place: str, request: BaseModel) -> KeyUse:
    """A key, and what is the same for the same request to the same place."""
    fingerprint = sha256(f"{place}\n{request.model_dump_json()}".encode()).hexdigest()
    return KeyUse(caller.owner, key, fingerprint)
