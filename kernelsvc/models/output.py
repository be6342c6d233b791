"""What is kept of a run's output: nbformat's four kinds of output."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MimeBundle = dict[str, Any]


class StreamOutput(BaseModel):
    """Text that was written to stdout or stderr."""

    output_type: Literal["stream"] = "stream"
    name: Literal["stdout", "stderr"]
    text: str


class DisplayOutput(BaseModel):
    """Something displayed, in one or more MIME types (images as base64)."""

    output_type: Literal["display_data"] = "display_data"
    data: MimeBundle
    metadata: dict[str, Any]


class ResultOutput(BaseModel):
    """The value of a cell's last expression, in one or more MIME types."""

    output_type: Literal["execute_result"] = "execute_result"
    data: MimeBundle
    metadata: dict[str, Any]
    execution_count: int


class ErrorOutput(BaseModel):
    """An uncaught exception; the traceback's lines are plain text."""

    output_type: Literal["error"] = "error"
    ename: str
    evalue: str
    traceback: list[str]


Output = Annotated[
    StreamOutput | DisplayOutput | ResultOutput | ErrorOutput, Field(discriminator="output_type")
]
