"""Keys for tests, made behind a service's back as the command line makes them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx

from kernelsvc import clock
from kernelsvc.app import Server
from kernelsvc.keys.secret import KeyText, hashed, new_key, parse_key
from kernelsvc.models.caller import Quotas
from kernelsvc.models.key import KeyRecord
from kernelsvc.settings import Settings
from kernelsvc.store.database import Database
from kernelsvc.store.keys import KeyStore
from tests.support.api import Api


@asynccontextmanager
async def key_store(settings: Settings) -> AsyncIterator[KeyStore]:
    """The keys of a service that may run, over a connection of its own."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database)
    await database.open()
    try:
        yield KeyStore(database)
    finally:
        await database.close()


def record_of(key: KeyText, owner: str = "default", **fields: Any) -> KeyRecord:
    """A key's record; `expires_in` is in seconds, `admin` a bool, the rest are fields or quotas."""
    quotas = {name: fields.pop(name) for name in list(fields) if name.startswith("max_")}
    now = clock.now()
    expires_in = fields.pop("expires_in", None)
    return KeyRecord(
        id=key.id,
        secret_hash=hashed(key.secret),
        name="test",
        owner=owner,
        scopes=frozenset({"run", "admin"} if fields.pop("admin", False) else {"run"}),
        created_at=now,
        expires_at=None if expires_in is None else now + timedelta(seconds=expires_in),
        quotas=Quotas(**quotas),
        **fields,
    )


async def make_key(settings: Settings, owner: str = "default", **fields: Any) -> str:
    """Make a key; returns its text."""
    key = new_key()
    async with key_store(settings) as store:
        await store.add(record_of(key, owner, **fields))
    return str(key)


async def revoke_key(settings: Settings, key: str) -> None:
    """Revoke a key."""
    parts = parse_key(key)
    assert parts is not None
    async with key_store(settings) as store:
        assert await store.revoke(parts.id, clock.now())


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def clients(server: Server, *keys: str | None) -> AsyncIterator[tuple[Api, ...]]:
    """A client for each key; for None, one without."""
    async with AsyncExitStack() as stack:
        made = []
        for key in keys:
            http = httpx.AsyncClient(
                base_url=server.url, timeout=60, headers=bearer(key) if key else {}
            )
            made.append(Api(await stack.enter_async_context(http)))
        yield tuple(made)
