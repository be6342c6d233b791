"""Structured logs on stderr: one line an event, as JSON or for people.

Request, session and run ids are bound to the context and appear on every line that is logged in it.
Never logged: keys, headers, user code, output, environment values, data.
"""

import logging
import sys

import structlog
from structlog.typing import Processor


def configure_logging(form: str, level: str) -> None:
    """Send our log lines and those of the libraries to stderr; `auto` is human on a terminal."""
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # What is not logged is not made up either: below the level, its methods do nothing.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    renderer: list[Processor] = (
        # The other ways to format an exception show the values of variables.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # At "info", tornado.general quotes malformed headers, keys in them included.
    for noisy in ("tornado.access", "tornado.general", "alembic", "traitlets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A request that fails is our handlers' to log, with its id.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
