"""A session's files, as the API shows them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel

from kernelsvc.models.fields import UtcTime


class FileInfo(BaseModel):
    """A file: its path in the workspace, its size in bytes, when it was last modified.

    Of a directory, the path ends with a slash. ERA's service says `uploaded`, its guide
    `modified_at`.
    """

    path: str
    size: int
    uploaded: Annotated[datetime, UtcTime]
    modified_at: Annotated[datetime, UtcTime]


class FileList(BaseModel):
    """Regular files, sorted by path: `count` of them.

    `total_count` and `total_size_bytes` are those of all there are; where they are more than are
    listed, it is `truncated`.
    """

    files: list[FileInfo]
    count: int
    total_count: int
    total_size_bytes: int
    truncated: bool = False


class FileDeleted(BaseModel):
    """The answer to DELETE of a file or directory."""

    success: Literal[True] = True
    path: str
    deleted_at: Annotated[datetime, UtcTime]


class ArchiveUnpacked(BaseModel):
    """The answer to PUT of an archive: what was put into the workspace, in files and bytes."""

    success: Literal[True] = True
    file_count: int
    total_size_bytes: int
