"""GET /api/tools: definitions of tools to hand to a language model."""

import pytest

PLACES = {
    "openai": lambda tool: (tool["function"]["name"], tool["function"]["parameters"]),
    "anthropic": lambda tool: (tool["name"], tool["input_schema"]),
    "mcp": lambda tool: (tool["name"], tool["inputSchema"]),
}


@pytest.mark.parametrize("kind", PLACES)
def test_each_tool_has_a_name_and_a_schema_where_its_api_wants_them(client, kind):
    tools = client.answer("GET", f"/api/tools?format={kind}")["tools"]
    found = dict(PLACES[kind](tool) for tool in tools)
    assert len(found) == len(tools) > 0
    assert all(schema["type"] == "object" for schema in found.values())
    assert all("description" in str(schema) for schema in found.values())


def test_all_formats_tell_of_the_same_tools(client):
    names = []
    for kind, place in PLACES.items():
        tools = client.answer("GET", f"/api/tools?format={kind}")["tools"]
        names.append({place(tool)[0] for tool in tools})
    assert names[0] == names[1] == names[2]


def test_an_unknown_format_is_refused(client):
    assert client.refused("GET", "/api/tools?format=fax") == {"format"}
