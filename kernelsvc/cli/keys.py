"""`kernelsvc keys`: make, list and revoke API keys, in the database of a service that may run.

The database is reached directly, so whoever may read and write it needs no key for this.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kernelsvc import clock
from kernelsvc.keys.secret import hashed, new_key
from kernelsvc.models.caller import Quotas
from kernelsvc.models.fields import iso, parse_duration
from kernelsvc.models.key import Key, KeyRecord, NewKey, name_problem, owner_problem
from kernelsvc.settings import Settings, load_settings
from kernelsvc.store.database import Database, DatabaseUnusable
from kernelsvc.store.keys import KeyStore

_REFUSED = 2
_QUOTAS = ("max_sessions", "max_parallel_runs", "max_runs_per_minute")

Command = Callable[[KeyStore, argparse.Namespace], Coroutine[Any, Any, int]]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of `kernelsvc keys`."""
    parser.description = "Make, list and revoke API keys. A running service notices within 2 s."
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_create(_command(commands, "create", _create, "make a key and print it, this once"))
    _command(commands, "list", _list, "list the keys, revoked ones included")
    revoke = _command(commands, "revoke", _revoke, "make a key useless, for good")
    revoke.add_argument("id", help="the key's id, as `kernelsvc keys list` shows it")


def _command(commands: Any, name: str, command: Command, help_: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_)
    parser.description = f"{help_[0].upper()}{help_[1:]}."
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--config", type=Path, help="settings file of the service")
    parser.add_argument("--data-dir", type=Path, help="data directory of the service")
    parser.add_argument("--database-url", help="database of the service, where not in data_dir")
    parser.set_defaults(command=lambda arguments: _run(command, arguments))
    return parser


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="what the key is for, for people")
    parser.add_argument(
        "--owner",
        default="default",
        type=_checked(owner_problem),
        help="whose sessions the key makes and sees (default: default; local has those that were "
        "made without a key)",
    )
    parser.add_argument(
        "--admin", action="store_true", help="may also list the sessions of other owners"
    )
    parser.add_argument("--expires", type=_lifetime, metavar="DURATION", help='such as "30d"')
    for name, of_what in (
        ("--max-sessions", "sessions of the owner"),
        ("--max-parallel-runs", "runs of the key that go on or wait at the same time"),
        ("--max-runs-per-minute", "runs that the key begins within any minute"),
    ):
        parser.add_argument(name, type=_quota, metavar="N", help=f"at most N {of_what}")


def _run(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command on the service's database; 2 where it cannot be had."""
    flags = {"data_dir": arguments.data_dir, "database_url": arguments.database_url}
    try:
        settings = load_settings(arguments.config, **flags)
        return asyncio.run(_on_store(command, settings, arguments))
    except (ValueError, OSError, DatabaseUnusable) as error:
        print(f"kernelsvc: {error}", file=sys.stderr)
        return _REFUSED


async def _on_store(command: Command, settings: Settings, arguments: argparse.Namespace) -> int:
    async with _key_store(settings) as store:
        return await command(store, arguments)


@asynccontextmanager
async def _key_store(settings: Settings) -> AsyncIterator[KeyStore]:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database)
    try:
        await database.open()
        yield KeyStore(database)
    finally:
        await database.close()


# ---- the commands


async def _create(store: KeyStore, arguments: argparse.Namespace) -> int:
    if problem := name_problem(arguments.name):
        raise ValueError(f"name: {problem}")
    key, now = new_key(), clock.now()
    record = KeyRecord(
        id=key.id,
        secret_hash=hashed(key.secret),
        name=arguments.name,
        owner=arguments.owner,
        scopes=frozenset({"run", "admin"} if arguments.admin else {"run"}),
        created_at=now,
        expires_at=_expiry(now, arguments.expires),
        quotas=Quotas(**{name: getattr(arguments, name) for name in _QUOTAS}),
    )
    await store.add(record)
    if arguments.json:
        print(NewKey(**_fields(record), key=str(key)).model_dump_json(indent=2))
    else:
        print(key)
        print(f"kernelsvc: key {key.id} is shown this once; keep it", file=sys.stderr)
    return 0


async def _list(store: KeyStore, arguments: argparse.Namespace) -> int:
    records = await store.all()
    if arguments.json:
        print(json.dumps([_shown(record) for record in records], indent=2))
        return 0
    head = ("ID", "OWNER", "SCOPES", "STATE", "LAST USED", "QUOTAS", "NAME")
    now = clock.now()
    rows = [head, *(_row(record, now) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


async def _revoke(store: KeyStore, arguments: argparse.Namespace) -> int:
    record = await store.revoke(arguments.id, clock.now())
    if record is None:
        raise ValueError(f"there is no key {arguments.id!r}")
    if arguments.json:
        print(json.dumps(_shown(record), indent=2))
    else:
        print(f"key {record.id} is revoked")
    if all(each.revoked_at for each in await store.all()):
        print(
            "kernelsvc: no key is left; once started again on loopback, the service needs none",
            file=sys.stderr,
        )
    return 0


# ---- arguments and output


def _checked(problem_of: Callable[[str], str | None]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if problem := problem_of(text):
            raise argparse.ArgumentTypeError(problem)
        return text

    return checked


def _lifetime(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _expiry(now: datetime, lifetime: float | None) -> datetime | None:
    if lifetime is None or math.isinf(lifetime):
        return None
    try:
        return now + timedelta(seconds=lifetime)
    except OverflowError:
        raise ValueError("expires: is later than dates go; leave it out") from None


def _quota(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) < 1 << 31):
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 2147483647")
    return int(text)


def _fields(record: KeyRecord) -> dict[str, Any]:
    shown = ("id", "name", "owner", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        **{name: getattr(record, name) for name in shown},
        "scopes": sorted(record.scopes),
        **{name: getattr(record.quotas, name) for name in _QUOTAS},
    }


def _shown(record: KeyRecord) -> dict[str, Any]:
    return Key(**_fields(record)).model_dump(mode="json")


def _row(record: KeyRecord, now: datetime) -> tuple[str, ...]:
    quotas = {name: getattr(record.quotas, name) for name in _QUOTAS}
    return (
        record.id,
        record.owner,
        ",".join(sorted(record.scopes)),
        _state(record, now),
        iso(record.last_used_at) if record.last_used_at else "never",
        ",".join(f"{name}={most}" for name, most in quotas.items() if most is not None) or "none",
        record.name,
    )


def _state(record: KeyRecord, now: datetime) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is None:
        return "valid"
    return f"{'until' if record.is_valid(now) else 'expired'} {iso(record.expires_at)}"
