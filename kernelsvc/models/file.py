"""A session's files, as the API shows them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel

from kernelsvc.models.fields import UtcTime


class FileInfo(BaseModel):
    """A file: its path in the workspace, its size in bytes, when it was last modified."""

    path: str
    size: int
    uploaded: Annotated[datetime, UtcTime]


class FileList(BaseModel):
    """The regular files of a workspace, sorted by path; `truncated` where there are more."""

    files: list[FileInfo]
    count: int
    truncated: bool = False


class FileDeleted(BaseModel):
    """The answer to DELETE of a file."""

    success: Literal[True] = True
    path: str
    deleted_at: Annotated[datetime, UtcTime]


class ArchiveUnpacked(BaseModel):
    """The answer to PUT of an archive: what was put into the workspace, in files and bytes."""

    success: Literal[True] = True
    file_count: int
    total_size_bytes: int
