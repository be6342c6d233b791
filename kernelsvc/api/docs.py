"""/openapi.json, and /docs, the same as a page for people; both are served without a key."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tornado.escape import xhtml_escape
from tornado.template import Template

from kernelsvc.api.base import ApiContext, ApiHandler
from kernelsvc.api.curl import curl
from kernelsvc.api.operations import Bytes, operation

_HERE = Path(__file__).parent
_CODE = re.compile("`([^`]+)`")


class DocumentHandler(ApiHandler):
    """/openapi.json"""

    needs_key = False

    def initialize(  # type: ignore[override]
        self, context: ApiContext, document: Callable[[], dict[str, Any]]
    ) -> None:
        """Called by Tornado before everything else; `document` takes a while the first time."""
        super().initialize(context)
        self._document = document

    @operation(Bytes("application/json"))
    async def get(self) -> None:
        """Get this document."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(await asyncio.to_thread(self._document)))


class DocsHandler(DocumentHandler):
    """/docs"""

    @operation(Bytes("text/html"))
    async def get(self) -> None:
        """Show the API as a page."""
        document = await asyncio.to_thread(self._document)
        style = (_HERE / "docs.css").read_text(encoding="utf-8")
        page = Template((_HERE / "docs.html").read_text(encoding="utf-8"))
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'",
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_status(HTTPStatus.OK)
        url = f"{self.request.protocol}://{self.request.host}"
        self.finish(
            page.generate(
                document=document,
                style=style,
                plain=_plain,
                marked=_marked,
                curl=partial(curl, url),
                answers=_answers,
            )
        )


def _answers(said: dict[str, Any]) -> list[str]:
    """The examples of what an operation answers, as JSON for people."""
    return [
        json.dumps(example["value"], indent=2, ensure_ascii=False)
        for answer in said["responses"].values()
        for content in answer.get("content", {}).values()
        for example in content.get("examples", {}).values()
    ]


def _marked(text: str) -> str:
    """A text with the code in it, which is between backticks, as HTML."""
    return _CODE.sub(r"<code>\1</code>", xhtml_escape(text))


def _plain(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    match schema:
        case {"$ref": ref}:
            return str(ref).rpartition("/")[2]
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " or ".join(json.dumps(value) for value in values)
        case {"anyOf": kinds} | {"oneOf": kinds}:
            return " or ".join(_plain(kind) for kind in kinds)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_plain(items)}"
        case {"type": kind}:
            return str(kind)
        case _:
            return "anything"
