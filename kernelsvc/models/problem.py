"""An error as the API answers it."""

from pydantic import BaseModel


class ProblemDetail(BaseModel):
    """A field that is wrong, and how."""

    field: str
    message: str


class Problem(BaseModel):
    """`error` is for people, `code` for programs, `request_id` finds the line in our log."""

    error: str
    code: str
    details: list[ProblemDetail] | None = None
    request_id: str
