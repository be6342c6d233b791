"""The tool definitions: as each API takes them, and for requests that there are."""

import re
from typing import Any

import pytest
from anthropic.types import ToolParam
from jsonschema import Draft202012Validator
from mcp.types import Tool as McpTool
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import TypeAdapter, ValidationError

from kernelsvc.api.routes import document
from kernelsvc.tools.definitions import TOOLS
from kernelsvc.tools.formats import tool_list

PUBLISHED = {
    "openai": TypeAdapter(ChatCompletionFunctionToolParam),
    "anthropic": TypeAdapter(ToolParam),
    "mcp": TypeAdapter(McpTool),
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# https://platform.openai.com/docs/guides/structured-outputs: what strict mode takes of JSON schema.
STRICT = {"type", "properties", "required", "additionalProperties", "description", "enum", "anyOf",
          "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}  # fmt: skip


def definitions(format):
    return tool_list(format).model_dump(mode="json")["tools"]


def parts(schema: Any):
    """A schema and all that it is made of."""
    yield schema
    for below in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        yield from parts(below)


@pytest.mark.parametrize("format", PUBLISHED)
def test_definitions_are_as_their_api_publishes_them(format):
    for definition in definitions(format):
        found = PUBLISHED[format].validate_python(definition)
        assert PUBLISHED[format].dump_python(found, exclude_unset=True, by_alias=True) == definition
    with pytest.raises(ValidationError):
        PUBLISHED[format].validate_python({"name": "nothing else"})


def test_functions_keep_to_the_rules_of_openai_s_strict_mode():
    for definition in definitions("openai"):
        function = definition["function"]
        assert NAME.fullmatch(function["name"])
        assert len(function["description"]) <= 1024
        assert function["strict"] is True
        for schema in parts(function["parameters"]):
            assert schema.keys() <= STRICT
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize(
    ("format", "place"), [("anthropic", "input_schema"), ("mcp", "inputSchema")]
)
def test_elsewhere_an_argument_that_is_not_needed_may_be_left_out(format, place):
    tools = {tool["name"]: tool[place] for tool in definitions(format)}
    assert all(NAME.fullmatch(name) for name in tools)
    assert tools["run_code"]["required"] == ["session_id", "code"]
    assert tools["create_session"]["required"] == ["language"]
    for schema in tools.values():
        Draft202012Validator.check_schema(schema)
        assert schema["additionalProperties"] is False


def test_every_call_is_an_operation_that_takes_its_arguments():
    for tool in TOOLS:
        call = tool.call
        said = document()["paths"][call.path][call.method.lower()]
        in_path = set(re.findall(r"\{(\w+)\}", call.path))
        in_body = set(call.json_body or ()) | ({call.text_body} if call.text_body else set())
        assert in_path | in_body == set(tool.arguments)
        assert not in_path & in_body
        assert ("requestBody" in said) == bool(in_body)
        if call.json_body:
            ref = said["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            model = document()["components"]["schemas"][ref.rpartition("/")[2]]
            assert set(call.json_body) <= model["properties"].keys()
            assert set(model.get("required", ())) <= set(call.json_body)


def test_what_a_tool_says_of_itself_is_what_its_request_does():
    for tool in TOOLS:
        assert tool.hints.readOnlyHint == (tool.call.method == "GET")
        assert not (tool.hints.readOnlyHint and tool.hints.destructiveHint)
