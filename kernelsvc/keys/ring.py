"""Who a request comes from, by its key.

Theory of operation. All keys are held in memory and read anew when they are older than
`MAX_AGE_SECONDS`, so a key that another process revokes is refused that much later at most, and a
request costs no query. An id that is not known is looked up again at once: a new key works from its
first use. Reading is coalesced (one query serves all who began to wait before it), so that made-up
keys cannot queue up queries.

Where there is no key at all, everybody is `LOCAL`, if the service listens on loopback only; from
the first key that was seen on, and until the service is started again, every request needs one.
Revoking the last key thus opens nothing that runs.
"""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Final

import structlog

from kernelsvc import clock
from kernelsvc.errors import Unauthorized
from kernelsvc.keys.secret import KeyText, hashed, matches, parse_key
from kernelsvc.models.caller import Caller
from kernelsvc.models.key import KeyRecord
from kernelsvc.store.keys import KeyStore

MAX_AGE_SECONDS: Final = 2.0
LOCAL: Final = Caller("local", frozenset({"run", "admin"}))
CONFIGURED: Final = Caller("default", frozenset({"run", "admin"}), key_id="configured")

_TOUCH_EVERY = timedelta(minutes=1)
_MISSING = "this service needs a key: send the header Authorization: Bearer <key>"
_REFUSED = "the key is not valid: it is unknown, has expired or was revoked"

log = structlog.get_logger()


class KeyRing:
    """The keys of the store, and `configured`, the one of the configuration, where there is one."""

    def __init__(self, store: KeyStore, configured: str | None, *, loopback_only: bool) -> None:
        self._store = store
        self._configured = None if configured is None else hashed(configured)
        self._loopback_only = loopback_only
        self._needs_key = configured is not None
        self._keys: dict[str, KeyRecord] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._touched: dict[str, datetime] = {}

    @property
    def needs_key(self) -> bool:
        """Whether a request needs a key, as far as was seen."""
        return self._needs_key or not self._loopback_only

    async def has_keys(self) -> bool:
        """Whether a key is configured or stored that was not revoked."""
        await self._read(time.monotonic())
        return self._needs_key

    async def caller(self, authorization: str | None) -> Caller:
        """Whom the value of the `Authorization` header belongs to; raises Unauthorized."""
        now = time.monotonic()
        await self._read(now - MAX_AGE_SECONDS)
        text = _bearer(authorization)
        key = parse_key(text) if text else None
        if key is not None and key.id not in self._keys:
            await self._read(now)
        if not self.needs_key:
            return LOCAL
        if text is None:
            raise Unauthorized(_MISSING)
        if self._configured is not None and matches(text, self._configured):
            return CONFIGURED
        return await self._owner_of(key)

    def may_be_key(self, authorization: str) -> bool:
        """Whether an `Authorization` header holds what is, was or may be a key of this service."""
        text = _bearer(authorization)
        if text is None:
            return False
        is_configured = self._configured is not None and matches(text, self._configured)
        return is_configured or parse_key(text) is not None

    async def _owner_of(self, key: KeyText | None) -> Caller:
        record = self._keys.get(key.id) if key else None
        now = clock.now()
        if key is None or record is None or not matches(key.secret, record.secret_hash):
            raise Unauthorized(_REFUSED)
        if not record.is_valid(now):
            raise Unauthorized(_REFUSED)
        await self._touch(record, now)
        return Caller(record.owner, record.scopes, record.id, record.quotas)

    async def _touch(self, record: KeyRecord, now: datetime) -> None:
        last = self._touched.get(record.id) or record.last_used_at
        if last is None or now - last >= _TOUCH_EVERY:
            # Noted before it is stored: of many requests at once, one writes.
            self._touched[record.id] = now
            await self._store.touch(record.id, now)

    async def _read(self, not_before: float) -> None:
        """Return when what is held was read at `not_before` (monotonic) or later."""
        while self._read_at < not_before:
            async with self._reading:
                if self._read_at < not_before:
                    began = time.monotonic()
                    self._hold(await self._store.all())
                    self._read_at = began

    def _hold(self, keys: list[KeyRecord]) -> None:
        self._keys = {key.id: key for key in keys}
        self._touched = {i: at for i, at in self._touched.items() if i in self._keys}
        if not self._needs_key and any(key.revoked_at is None for key in keys):
            self._needs_key = True
            log.info("key_needed_from_now_on")


def _bearer(authorization: str | None) -> str | None:
    """The key in the header; None where it is missing or says something else."""
    scheme, _, text = (authorization or "").strip().partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None
