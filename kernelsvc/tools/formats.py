"""The tools in the shapes in which the APIs of language models take them. Pure."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from kernelsvc.tools.definitions import TOOLS, Hints, Json, Tool, ToolCall

Format = Literal["openai", "anthropic", "mcp"]


class OpenAiFunction(BaseModel):
    """A function of OpenAI's Chat Completions API, in strict mode."""

    name: str
    description: str
    parameters: Json
    strict: Literal[True] = True


class OpenAiTool(BaseModel):
    """A tool of OpenAI's Chat Completions API."""

    type: Literal["function"] = "function"
    function: OpenAiFunction


class AnthropicTool(BaseModel):
    """A tool of Anthropic's Messages API."""

    name: str
    description: str
    input_schema: Json


class McpTool(BaseModel):
    """A tool of the Model Context Protocol."""

    name: str
    description: str
    inputSchema: Json
    annotations: Hints


class ToolList(BaseModel):
    """Tool definitions to pass on as they are, and for each tool's name the request that it is."""

    format: Format
    tools: Sequence[OpenAiTool | AnthropicTool | McpTool]
    calls: dict[str, ToolCall]


def tool_list(format: Format) -> ToolList:
    """All tools in that format."""
    shaped = {"openai": _openai, "anthropic": _anthropic, "mcp": _mcp}[format]
    return ToolList(
        format=format,
        tools=[shaped(tool) for tool in TOOLS],
        calls={tool.name: tool.call for tool in TOOLS},
    )


def _openai(tool: Tool) -> OpenAiTool:
    schema = tool.schema()
    # Strict mode: every argument is given, as null where it is not wanted.
    parameters = {**schema, "required": list(schema["properties"])}
    return OpenAiTool(
        function=OpenAiFunction(name=tool.name, description=tool.about, parameters=parameters)
    )


def _anthropic(tool: Tool) -> AnthropicTool:
    return AnthropicTool(name=tool.name, description=tool.about, input_schema=tool.schema())


def _mcp(tool: Tool) -> McpTool:
    return McpTool(
        name=tool.name,
        description=tool.about,
        inputSchema=tool.schema(),
        annotations=tool.hints,
    )
