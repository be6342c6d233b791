"""One-off executions: code with all that it needs, and what came of it."""

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    StrictStr,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kernelsvc.models.fields import Environment, SessionLimits, SourceCode, Text, Timeout
from kernelsvc.models.limits import Limits
from kernelsvc.models.run import Run, RunRequest


class GivenFile(BaseModel):
    """A file that comes with a request: its content as text, or what base64 makes of its bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: Literal["utf-8", "base64"] = "utf-8"
    content: Text

    @field_validator("content")
    @classmethod
    def _is_encoded(cls, content: str, info: ValidationInfo) -> str:
        if info.data.get("encoding") == "base64":
            try:
                base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ValueError(f"is not base64: {error}") from None
        return content

    def data(self) -> bytes:
        """What the file holds."""
        return (
            base64.b64decode(self.content) if self.encoding == "base64" else self.content.encode()
        )


class _OrText:
    """In the schema as in fact: text alone is a file that holds it."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


def _from_text(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("must be text, or an object of `content` and `encoding`")  # noqa: TRY004
    return {"content": value} if isinstance(value, str) else value


class ExecuteRequest(BaseModel):
    """The body of POST /api/execute; None means "not given" throughout.

    `files` are there before the code runs, by their paths in its working directory. `envs` is
    ERA's name for `env`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: SourceCode
    language: StrictStr
    timeout: Timeout = None
    files: dict[str, Annotated[GivenFile, BeforeValidator(_from_text), _OrText()]] | None = None
    env: Environment | None = None
    envs: Environment | None = None
    stdin: Text | None = None
    allowInternetAccess: StrictBool | None = None
    limits: SessionLimits = Limits()

    @field_validator("envs")
    @classmethod
    def _is_given_once(
        cls, envs: dict[str, str] | None, info: ValidationInfo
    ) -> dict[str, str] | None:
        if envs is not None and info.data.get("env") is not None:
            raise ValueError("is another name for `env`, which is given too: give one of them")
        return envs

    @property
    def environment(self) -> dict[str, str]:
        """The variables, by whichever name they are given."""
        return self.env or self.envs or {}

    def as_run(self) -> RunRequest:
        """What is to be run."""
        return RunRequest(
            code=self.code,
            timeout=self.timeout,
            env=self.environment,
            stdin=self.stdin,
        )


class Executed(Run):
    """A run whose session was its own and is gone; `session_id` is what its code was told.

    ERA's clients read `vm_id`, which is the same, and `execution_time_ms`.
    """

    vm_id: str
    execution_time_ms: int = Field(ge=0)
