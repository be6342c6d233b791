"""`kernelsvc serve`."""

import argparse
import asyncio
import gc
import sys

from kernelsvc.app import serve as serve_until_stopped
from kernelsvc.errors import CannotStart
from kernelsvc.logs import configure_logging
from kernelsvc.settings import Settings, load_settings

_FLAGS = (
    "host",
    "port",
    "data_dir",
    "database_url",
    "default_timeout",
    "max_timeout",
    "sleep_after",
    "drain_timeout",
    "allow_unsandboxed",
    "tls_certificate",
    "tls_key",
    "log_format",
    "log_level",
)


def settings_from(arguments: argparse.Namespace) -> Settings | None:
    """The settings with the flags over them; None where they are wrong, which has been said."""
    flags = {name: getattr(arguments, name, None) for name in _FLAGS}
    try:
        return load_settings(arguments.config, **flags)
    except (ValueError, FileNotFoundError) as error:
        print(f"kernelsvc: {error}", file=sys.stderr)
        return None


def serve(arguments: argparse.Namespace) -> int:
    """Serve until stopped; 0 for a stop in good order, 2 where it cannot start."""
    settings = settings_from(arguments)
    if settings is None:
        return 2
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(serve_until_stopped(settings, _announce))
    except (OSError, CannotStart) as error:
        print(f"kernelsvc: {error}", file=sys.stderr)
        return 2
    return 0


def _announce(url: str) -> None:
    # What is there by now stays: the collector need not look through it again while runs go on.
    gc.collect()
    gc.freeze()
    print(f"kernelsvc answers on {url}", flush=True)
