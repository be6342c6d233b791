"""`kernelsvc run`."""

import argparse
import math
import sys
from http import HTTPStatus

import httpx

from kernelsvc.client import Client, ServiceError
from kernelsvc.models.run import Run

_REFUSED = 2


def run(arguments: argparse.Namespace) -> int:
    """Run code on a service, print its output, return its exit code."""
    code = sys.stdin.read() if arguments.code == "-" else arguments.code
    if arguments.timeout is not None and not math.isfinite(arguments.timeout):
        # JSON has no word for it; every other number is the service's to judge.
        print("kernelsvc: timeout: must be a finite number of seconds", file=sys.stderr)
        return _REFUSED
    try:
        client = Client(arguments.url, arguments.api_key or None)
    except (ValueError, httpx.InvalidURL) as error:
        print(f"kernelsvc: {error}", file=sys.stderr)
        return _REFUSED
    try:
        with client:
            if arguments.session is None:
                result: Run = client.execute(arguments.language, code, timeout=arguments.timeout)
            else:
                _make_session(client, arguments.session, arguments.language)
                result = client.run(arguments.session, code, timeout=arguments.timeout)
    except ServiceError as error:
        print(f"kernelsvc: {error}", file=sys.stderr)
        return _REFUSED
    except httpx.TransportError as error:
        print(f"kernelsvc: no answer from {arguments.url}: {error}", file=sys.stderr)
        return _REFUSED
    _show(result)
    return result.exit_code or 0


def _make_session(client: Client, session_id: str, language: str) -> None:
    try:
        client.create_session(language, session_id=session_id)
    except ServiceError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise


def _show(result: Run) -> None:
    sys.stdout.write(result.stdout)
    if result.text is not None:
        print(result.text)
    sys.stdout.flush()
    sys.stderr.write(result.stderr)
    if result.timed_out:
        print(f"kernelsvc: timed out after {result.duration}", file=sys.stderr)
