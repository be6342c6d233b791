"""`kernelsvc`: the commands and their options."""

import argparse
import os
import sys
from pathlib import Path

from kernelsvc import __version__
from kernelsvc.cli import keys
from kernelsvc.cli.doctor import doctor
from kernelsvc.cli.run import run
from kernelsvc.cli.serve import serve

_INTERRUPTED = 130
_DEFAULT_URL = "http://127.0.0.1:8787"


def main() -> None:
    """Entry point; exits with the command's status."""
    arguments = _parser().parse_args()
    try:
        sys.exit(arguments.command(arguments))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kernelsvc",
        description="Run code in sessions that keep a live Jupyter kernel.",
        epilog="Every setting can also be given in a file (--config, see config/kernelsvc.toml) or "
        "as KERNELSVC_<NAME> in the environment. `kernelsvc COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"kernelsvc {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve the HTTP API until SIGTERM or Ctrl-C"))
    _add_run(
        commands.add_parser(
            "run", help="run code on a service, print its output, exit with its exit code"
        )
    )
    _add_doctor(
        commands.add_parser("doctor", help="say what this machine can and cannot do for sandboxes")
    )
    keys.add_to(commands.add_parser("keys", help="make, list and revoke the API keys of a service"))
    return parser


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Try what the sandbox of a kernel needs on this machine, say what is missing and how to "
        "mend it. Exits with 1 where kernels would not be sandboxed."
    )
    parser.add_argument("--config", type=Path, help="settings file (default config/kernelsvc.toml)")
    parser.set_defaults(command=doctor)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = "Serve the HTTP API until SIGTERM or Ctrl-C; runs may finish first."
    parser.add_argument("--config", type=Path, help="settings file (default config/kernelsvc.toml)")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port; 0 picks a free one (default 8787)")
    parser.add_argument("--data-dir", type=Path, help="where everything that lasts is kept")
    parser.add_argument("--database-url", help="default: an SQLite file in the data directory")
    parser.add_argument(
        "--default-timeout", metavar="SECONDS", help="for runs that say nothing (30)"
    )
    parser.add_argument(
        "--max-timeout", metavar="SECONDS", help="the most a run may ask for (3600)"
    )
    parser.add_argument(
        "--sleep-after", metavar="DURATION", help='idle sessions sleep after this ("5m"; "never")'
    )
    parser.add_argument(
        "--drain-timeout", metavar="SECONDS", help="for runs to finish at a stop (30)"
    )
    parser.add_argument(
        "--allow-unsandboxed",
        action="store_true",
        default=None,
        help="serve beyond loopback where kernels cannot be sandboxed",
    )
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS with this (PEM, chain)"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument("--log-format", choices=("auto", "human", "json"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.set_defaults(command=serve)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run code on a service. The output appears as the code's own would; the exit code is the "
        "run's (124 for a timeout, 2 where the service refused or cannot be reached)."
    )
    parser.add_argument("code", help="the code; - reads it from standard input")
    parser.add_argument(
        "--session",
        metavar="ID",
        help="run in this session, made where there is none and kept; without it, in a fresh one "
        "that is gone afterwards",
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="default: the session's")
    parser.add_argument("--language", default="python", help="of a new session (default python)")
    parser.add_argument(
        "--url",
        default=os.environ.get("KERNELSVC_URL") or _DEFAULT_URL,
        help=f"the service (default: KERNELSVC_URL in the environment, else {_DEFAULT_URL})",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("KERNELSVC_API_KEY"),
        help="a key of the service's (default: KERNELSVC_API_KEY in the environment, where other "
        "users of the machine cannot see it)",
    )
    parser.set_defaults(command=run)
