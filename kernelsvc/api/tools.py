"""/api/tools: what to tell a language model of what it can do here."""

from typing import Final, cast, get_args

from kernelsvc.api.base import ApiHandler, shortened
from kernelsvc.api.operations import Example, Parameter, operation
from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.tools.formats import Format, ToolList, tool_list

_FORMATS: Final = get_args(Format)
_FORMAT: Final = Parameter(
    "format",
    "whose API is to take the definitions",
    {"enum": list(_FORMATS), "default": _FORMATS[0]},
)


class ToolsHandler(ApiHandler):
    """/api/tools"""

    @operation(ToolList, query=(_FORMAT,), example=Example(query={"format": "anthropic"}))
    async def get(self) -> None:
        """Get definitions of tools, for a language model to run code here.

        `tools` is to be passed on as it is; `calls` tells what request to make of a call.
        """
        wanted = self.get_query_argument("format", _FORMATS[0])
        if wanted not in _FORMATS:
            problem = f"must be one of {', '.join(_FORMATS)} (given: {shortened(wanted)})"
            raise InvalidRequest([FieldProblem("format", problem)])
        self.answer(tool_list(cast(Format, wanted)))
