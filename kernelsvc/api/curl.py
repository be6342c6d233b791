"""The OpenAPI document's examples as commands for a shell."""

import json
import shlex
from typing import Any
from urllib.parse import quote, urlencode

_JSON = "application/json"
_CONTINUED = " \\\n    "


def curl(url: str, path: str, method: str, said: dict[str, Any]) -> str:
    """The example of an operation of the service at `url`; `said` is what the document tells."""
    query: dict[str, str] = {}
    for parameter in said["parameters"]:
        if parameter["in"] == "path":
            value = quote(parameter["example"], safe="/")
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif "example" in parameter:
            query[parameter["name"]] = parameter["example"]
    where = shlex.quote(url + path + ("?" + urlencode(query) if query else ""))
    parts = [f"curl {_OPTIONS.get(method, f'-X {method.upper()} ')}{where}"]
    for kind, content in said.get("requestBody", {}).get("content", {}).items():
        parts.append(f"-H {shlex.quote(f'Content-Type: {kind}')}")
        parts += [_data(kind, example) for example in content.get("examples", {}).values()]
    return _CONTINUED.join(parts)


_OPTIONS = {"get": "", "head": "-I "}


def _data(kind: str, example: dict[str, Any]) -> str:
    if "externalValue" in example:
        return f"--data-binary {shlex.quote('@' + example['externalValue'])}"
    value = example["value"]
    if kind == _JSON:
        return f"-d {shlex.quote(json.dumps(value))}"
    return f"--data-binary {shlex.quote(value)}"
