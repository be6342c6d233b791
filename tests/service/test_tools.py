"""GET /api/tools: a model's call of a tool, as its API hands it over, is made and answered."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from anthropic.types import Message
from mcp.types import CallToolRequestParams
from openai.types.chat import ChatCompletion

from tests.support.problems import fields_of, problem_of

CODE = "import json\nprint(sum(json.load(open('data/numbers.json'))))"


def openai_message(calls: dict[str, Any]) -> dict[str, Any]:
    """An answer of OpenAI's Chat Completions API that calls tools."""
    return {
        "id": "chatcmpl-BtQ5eaF7YrN0mTfYvSeeQ9xLbWcXo",
        "object": "chat.completion",
        "created": 1752710378,
        "model": "gpt-4.1-2025-04-14",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": f"call_{number}",
                            "type": "function",
                            "function": {"name": name, "arguments": json.dumps(arguments)},
                        }
                        for number, (name, arguments) in enumerate(calls.items())
                    ],
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 412, "completion_tokens": 61, "total_tokens": 473},
        "service_tier": "default",
        "system_fingerprint": "fp_b3f1157249",
    }


def anthropic_message(calls: dict[str, Any]) -> dict[str, Any]:
    """An answer of Anthropic's Messages API that calls tools."""
    return {
        "id": "msg_01Aq9w938a90dw8q",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-20250514",
        "content": [
            {"type": "text", "text": "I'll add the numbers up."},
            *(
                {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}
                for number, (name, arguments) in enumerate(calls.items())
            ),
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 472, "output_tokens": 89},
    }


def mcp_requests(calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Requests of an MCP client."""
    return [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }
        for number, (name, arguments) in enumerate(calls.items())
    ]


def called(format: str, calls: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The calls as a program gets them out of what the API has sent."""
    match format:
        case "openai":
            (choice,) = ChatCompletion.model_validate(openai_message(calls)).choices
            functions = [
                each.function for each in choice.message.tool_calls or [] if each.type == "function"
            ]
            return [(each.name, json.loads(each.arguments)) for each in functions]
        case "anthropic":
            blocks = Message.model_validate(anthropic_message(calls)).content
            return [(each.name, each.input) for each in blocks if each.type == "tool_use"]
        case _:
            asked = [
                CallToolRequestParams.model_validate(request["params"])
                for request in mcp_requests(calls)
            ]
            return [(each.name, each.arguments or {}) for each in asked]


async def make(api, call, arguments):
    """What a back end does with a call, all that it needs to know."""
    places = {name: quote(value, safe="/") for name, value in arguments.items() if value is not None
              and f"{{{name}}}" in call["path"]}  # fmt: skip
    body: dict[str, Any] = {}
    if call["json_body"] is not None:
        body["json"] = {name: arguments[name] for name in call["json_body"] if name in arguments}
    if call["text_body"] is not None:
        body["content"] = arguments[call["text_body"]]
    answer = await api.http.request(call["method"], call["path"].format(**places), **body)
    assert answer.is_success, answer.text
    return answer.json() if call["answers"] == "json" else answer.text


# What strict mode makes the model say; elsewhere it is left out.
NULLS = {"create_session": {}, "run_code": {"timeout": None},
         "execute_code": {"timeout": None, "stdin": None}}  # fmt: skip


@pytest.mark.parametrize("format", ["openai", "anthropic", "mcp"])
async def test_the_calls_of_a_model_are_made_and_answered(api, format):
    told = (await api.send("GET", f"/api/tools?format={format}")).json
    assert told["format"] == format
    here = {"session_id": "talk"}
    calls = {
        "create_session": {"language": "python", **here},
        "write_file": {**here, "path": "data/numbers.json", "content": "[1, 2, 39]"},
        "run_code": {**here, "code": CODE},
        "read_file": {**here, "path": "data/numbers.json"},
        "list_files": here,
        "reset_session": here,
        "execute_code": {"language": "python", "code": "6 * 7"},
    }
    assert calls.keys() == told["calls"].keys()
    if format == "openai":
        calls = {name: {**NULLS.get(name, {}), **given} for name, given in calls.items()}
    results = {
        name: await make(api, told["calls"][name], arguments)
        for name, arguments in called(format, calls)
    }
    assert results["create_session"]["id"] == "talk"
    assert results["write_file"]["size"] == 10
    assert (results["run_code"]["exit_code"], results["run_code"]["stdout"]) == (0, "42\n")
    assert results["read_file"] == "[1, 2, 39]"
    assert [file["path"] for file in results["list_files"]["files"]] == ["data/numbers.json"]
    assert results["reset_session"]["state"] == "idle"
    assert results["execute_code"]["text"] == "42"
    assert (await api.run("json", "talk"))["error"]["ename"] == "NameError"


async def test_openai_is_the_default_and_another_format_is_refused(api):
    plain = (await api.send("GET", "/api/tools")).json
    assert plain == (await api.send("GET", "/api/tools?format=openai")).json
    assert plain["format"] == "openai"
    problem = problem_of(await api.http.get("/api/tools?format=gemini"), 400, "invalid_request")
    assert fields_of(problem) == ["format"]
    assert "openai, anthropic, mcp" in problem["error"]
