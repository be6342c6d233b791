"""Keys as text, what is stored of them, and the ring that tells whose a request is."""

import asyncio
import hashlib
from collections import Counter
from datetime import timedelta

import pytest

from kernelsvc import clock
from kernelsvc.errors import Unauthorized
from kernelsvc.keys import ring as ring_module
from kernelsvc.keys.ring import CONFIGURED, LOCAL, KeyRing
from kernelsvc.keys.secret import hashed, matches, new_key, parse_key
from kernelsvc.models.caller import Quotas
from kernelsvc.store.database import Database
from kernelsvc.store.keys import KeyStore
from tests.support.keys import record_of

# ---- secrets


def test_keys_are_all_different_and_carry_at_least_160_secret_bits():
    keys = [new_key() for _ in range(1000)]
    assert len({key.id for key in keys}) == len({key.secret for key in keys}) == 1000
    assert all(len(bytes.fromhex(key.secret)) * 8 >= 160 for key in keys)
    # Every bit is drawn: each position shows every digit.
    assert all(len(set(digits)) == 16 for digits in zip(*(key.secret for key in keys), strict=True))


def test_a_key_is_read_back_from_its_text():
    key = new_key()
    assert parse_key(str(key)) == key
    assert str(key).startswith(f"ks_{key.id}_")


@pytest.mark.parametrize(
    "text", ["", "ks_", "ks__", "x", "KS_{}", "{} ", " {}", "{}0", "{}\n", "sk_{}", "ks_é_ü"]
)
def test_what_is_no_key_has_no_parts(text):
    assert parse_key(text.format(new_key())) is None


def test_only_the_secrets_hash_is_stored_and_only_the_secret_matches_it():
    key, other = new_key(), new_key()
    stored = hashed(key.secret)
    assert stored == hashlib.sha256(key.secret.encode()).hexdigest()
    assert matches(key.secret, stored)
    assert not matches(other.secret, stored)
    assert not matches(key.secret[:-1], stored)
    assert not matches("é" + key.secret, stored)
    assert not matches(stored, stored)


def test_a_key_that_is_shown_by_accident_keeps_its_secret():
    key = new_key()
    assert key.secret not in repr(key)
    assert key.secret not in repr([key])


# ---- the store


@pytest.fixture
def store(io_loop, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    io_loop.run_sync(database.open)
    yield KeyStore(database)
    io_loop.run_sync(database.close)


async def test_a_key_comes_out_as_it_was_put_in(store):
    bare = record_of(new_key())
    full = record_of(new_key(), "a@b", admin=True, expires_in=5, max_sessions=1,
                     max_parallel_runs=2, max_runs_per_minute=3)  # fmt: skip
    await store.add(bare)
    await store.add(full)
    assert await store.all() == [bare, full]
    assert full.quotas == Quotas(1, 2, 3)


async def test_a_revoked_key_stays_revoked_since_the_first_time(store):
    record = record_of(new_key())
    await store.add(record)
    first = clock.now()
    assert (await store.revoke(record.id, first)).revoked_at == first
    assert (await store.revoke(record.id, first + timedelta(days=1))).revoked_at == first
    assert [key.revoked_at for key in await store.all()] == [first]
    assert await store.revoke("nobody", first) is None


# ---- the ring


def ring_of(store, configured=None, *, loopback_only=True):
    return KeyRing(store, configured, loopback_only=loopback_only)


async def refusal(ring, authorization):
    with pytest.raises(Unauthorized) as refused:
        await ring.caller(authorization)
    return str(refused.value)


async def test_without_keys_everybody_on_loopback_is_local_and_nobody_elsewhere(store):
    assert not await ring_of(store).has_keys()
    assert await ring_of(store).caller(None) is LOCAL
    await refusal(ring_of(store, loopback_only=False), None)


async def test_a_key_is_its_owner_with_its_rights(store):
    key = new_key()
    await store.add(record_of(key, "alice", admin=True, max_sessions=3))
    caller = await ring_of(store).caller(f"Bearer {key}")
    assert (caller.owner, caller.key_id, caller.scopes) == ("alice", key.id, {"run", "admin"})
    assert caller.quotas == Quotas(max_sessions=3)


async def test_the_configured_key_works_beside_those_of_the_store(store):
    key = new_key()
    await store.add(record_of(key, "alice"))
    ring = ring_of(store, "a-configured-key")
    assert await ring.has_keys()
    assert await ring.caller("bearer  a-configured-key") == CONFIGURED
    assert (await ring.caller(f"Bearer {key}")).owner == "alice"
    for wrong in ("a-configured-kex", "a-configured-key2", "a-configured", "é"):
        await refusal(ring, f"Bearer {wrong}")


async def test_unknown_wrong_expired_and_revoked_keys_are_refused_in_the_same_words(store):
    unknown, wrong, expired, revoked = new_key(), new_key(), new_key(), new_key()
    await store.add(record_of(wrong))
    await store.add(record_of(expired, expires_in=-1))
    await store.add(record_of(revoked, revoked_at=clock.now()))
    other_secret = wrong._replace(secret=unknown.secret)
    ring = ring_of(store)
    tried = [unknown, other_secret, expired, revoked, "no-key-at-all"]
    messages = {await refusal(ring, f"Bearer {key}") for key in tried}
    assert len(messages) == 1
    # The control: with its own secret the same id is let in.
    assert (await ring.caller(f"Bearer {wrong}")).key_id == wrong.id


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer {} {}", "Bearer {},{}",
               "Bearer\t{}", "Digest Bearer {}"],
)  # fmt: skip
async def test_a_header_that_is_missing_or_malformed_is_refused(store, header):
    key = new_key()
    await store.add(record_of(key))
    await refusal(ring_of(store), header and header.format(key, key))


async def test_a_new_key_works_at_once_and_locks_what_was_open(store):
    ring = ring_of(store)
    assert await ring.caller(None) is LOCAL
    key = new_key()
    await store.add(record_of(key, "alice"))
    assert (await ring.caller(f"Bearer {key}")).owner == "alice"
    await refusal(ring, None)


async def test_a_key_made_elsewhere_locks_out_those_without_one_when_the_keys_are_read_again(
    store, monkeypatch
):
    ring = ring_of(store)
    assert await ring.caller(None) is LOCAL
    await store.add(record_of(new_key()))
    assert await ring.caller(None) is LOCAL
    monkeypatch.setattr(ring_module, "MAX_AGE_SECONDS", 0.0)
    await refusal(ring, None)


async def test_a_revoked_key_is_refused_when_the_keys_are_read_again(store, monkeypatch):
    key = new_key()
    await store.add(record_of(key))
    ring = ring_of(store)
    await ring.caller(f"Bearer {key}")
    await store.revoke(key.id, clock.now())
    assert (await ring.caller(f"Bearer {key}")).key_id == key.id
    monkeypatch.setattr(ring_module, "MAX_AGE_SECONDS", 0.0)
    await refusal(ring, f"Bearer {key}")


async def test_an_expired_key_is_refused_without_reading_anything(store, monkeypatch):
    key = new_key()
    await store.add(record_of(key, expires_in=60))
    ring = ring_of(store)
    await ring.caller(f"Bearer {key}")
    later = clock.now() + timedelta(seconds=61)
    monkeypatch.setattr(clock, "now", lambda: later)
    await refusal(ring, f"Bearer {key}")


async def test_revoking_the_last_key_opens_nothing(store, monkeypatch):
    monkeypatch.setattr(ring_module, "MAX_AGE_SECONDS", 0.0)
    key = new_key()
    await store.add(record_of(key))
    ring = ring_of(store)
    await ring.caller(f"Bearer {key}")
    await store.revoke(key.id, clock.now())
    await refusal(ring, None)
    await refusal(ring, f"Bearer {key}")
    assert await ring_of(store).caller(None) is LOCAL


async def test_an_expired_key_keeps_the_service_locked(store):
    await store.add(record_of(new_key(), expires_in=-1))
    await refusal(ring_of(store), None)


def counted(store, monkeypatch):
    """Counts the queries that the ring makes."""
    queries: Counter[str] = Counter()

    def count(name, query):
        async def counting(*arguments):
            queries[name] += 1
            return await query(*arguments)

        monkeypatch.setattr(store, name, counting)

    count("all", store.all)
    count("touch", store.touch)
    return queries


async def test_requests_with_a_known_key_cost_no_query(store, monkeypatch):
    key = new_key()
    await store.add(record_of(key))
    queries = counted(store, monkeypatch)
    ring = ring_of(store)
    for _ in range(20):
        await ring.caller(f"Bearer {key}")
    assert queries == {"all": 1, "touch": 1}


async def test_many_made_up_keys_at_once_share_their_queries(store, monkeypatch):
    queries = counted(store, monkeypatch)
    ring = ring_of(store, "a-configured-key")
    tried = (ring.caller(f"Bearer {new_key()}") for _ in range(200))
    results = await asyncio.gather(*tried, return_exceptions=True)
    assert {type(result) for result in results} == {Unauthorized}
    assert queries["all"] <= 3


async def test_use_is_noted_at_most_once_a_minute(store, monkeypatch):
    key = new_key()
    await store.add(record_of(key))
    queries = counted(store, monkeypatch)
    ring = ring_of(store)
    begin = clock.now()
    for seconds, writes in ((0, 1), (1, 1), (59, 1), (60, 2), (119, 2), (121, 3)):
        monkeypatch.setattr(clock, "now", lambda at=begin + timedelta(seconds=seconds): at)
        await asyncio.gather(*(ring.caller(f"Bearer {key}") for _ in range(5)))
        assert queries["touch"] == writes
    (record,) = await store.all()
    assert record.last_used_at == begin + timedelta(seconds=121)
