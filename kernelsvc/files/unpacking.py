"""An archive that a caller sends: unpacked aside, and moved in when all of it is known to be good.

Theory of operation. The whole tar.gz is in a staged file, bounded by the session's limit. It is
unpacked into a staged directory, which the code cannot reach; each member is counted against the
limit before it is written, so that a bomb goes no further than a workspace may. Only regular files
and directories are taken, and only under names that a PUT of a single file would take. The first
member that is something else refuses the whole archive. Then everything is looked up in the
workspace, where something of another kind may be in the way, and only then are the files moved in,
each over what has its name. Files that the archive does not have stay.
"""

import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Self

from kernelsvc.errors import FieldProblem, InvalidRequest, shortened
from kernelsvc.files.beneath import NotRegular, kind_of, open_beneath
from kernelsvc.files.charge import LEAST_CHARGE, charge_of
from kernelsvc.files.directory import Owner, give
from kernelsvc.files.own import what_it_is
from kernelsvc.files.path import relative_path
from kernelsvc.files.placing import make_directories
from kernelsvc.files.told import told

_PIECE = 256 * 1024
# Far more than any real header; tarfile reads these into memory whole.
_LARGEST_HEADER = 64 * 1024
_MOST_GLOBAL_HEADERS = 100
_MOST_PADDING = 16 * 1024 * 1024
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass
class Unpacked:
    """What an archive holds: the directories and files, by path, and the bytes of the files."""

    directories: set[bytes] = field(default_factory=set)
    files: set[bytes] = field(default_factory=set)
    named: set[bytes] = field(default_factory=set)
    size: int = 0
    charged: int = 0


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """A header, before tarfile reads what belongs to it."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _LARGEST_HEADER:
            raise _refusal("has a header that is too large")
        return member


def unpack(
    archive: BinaryIO, target: int, owner: Owner | None, count: Callable[[int], None]
) -> Unpacked:
    """Unpack a tar.gz into the open, empty directory `target`, which nobody else can reach.

    `count` is called with what has been unpacked so far, in bytes as they are charged, before more
    is written; what it raises ends everything. Raises InvalidRequest, which names the member.
    """
    done = Unpacked()
    with _readable(), gzip.GzipFile(fileobj=archive, mode="rb") as content:
        with tarfile.open(
            fileobj=content,
            mode="r|",
            tarinfo=_Member,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            while (member := tar.next()) is not None:
                # In this mode nothing is read twice; tarfile would keep every member.
                tar.members = []  # type: ignore[attr-defined]
                if len(tar.pax_headers) > _MOST_GLOBAL_HEADERS:
                    raise _refusal("has too many headers")
                _take(tar, member, target, owner, done, count)
        _read_to_end(content)
    return done


def _take(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    target: int,
    owner: Owner | None,
    done: Unpacked,
    count: Callable[[int], None],
) -> None:
    path = _checked(member, done)
    if path is None:
        return
    with told(path):
        _write(tar, member, path, target, owner, done, count)


def _write(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: bytes,
    target: int,
    owner: Owner | None,
    done: Unpacked,
    count: Callable[[int], None],
) -> None:
    directories = _parents(path) | ({path} if member.isdir() else set())
    done.charged += LEAST_CHARGE * len(directories - done.directories)
    done.directories |= directories
    count(done.charged)
    if member.isdir():
        os.close(make_directories(target, path, target, owner))
        return
    done.files.add(path)
    directory, _, name = path.rpartition(b"/")
    parent = make_directories(target, directory, target, owner)
    try:
        file = os.open(name, _NEW, 0o600, dir_fd=parent)
    finally:
        os.close(parent)
    with os.fdopen(file, "wb") as output:
        source = tar.extractfile(member)
        before, size = done.charged, 0
        count(before + LEAST_CHARGE)
        while source is not None and (data := source.read(_PIECE)):
            size += len(data)
            count(before + charge_of(size))
            output.write(data)
        os.fchmod(file, member.mode & 0o777 | 0o600)
        give(file, owner)
    done.charged = before + charge_of(size)
    done.size += size


def _checked(member: tarfile.TarInfo, done: Unpacked) -> bytes | None:
    """The member's path, None for the top itself; raises InvalidRequest for what is not taken."""
    name = member.name
    while name.startswith("./"):
        name = name[2:]
    if member.isdir() and name in ("", "."):
        return None
    where = f"archive: {shortened(member.name)}"
    path = relative_path(name, where)
    problem = None
    if member.issparse() or not (member.isreg() or member.isdir()):
        problem = f"is {_kind(member)}; only regular files and directories are taken"
    elif member.mode & (stat.S_ISUID | stat.S_ISGID):
        problem = "has a setuid or setgid bit"
    elif (own := what_it_is(path)) is not None:
        problem = own
    elif path in done.named:
        problem = "is in the archive twice"
    elif path in (done.directories if member.isreg() else done.files):
        problem = "is a file and a directory"
    elif _parents(path) & done.files:
        problem = "is below a file of the archive"
    if problem is not None:
        raise InvalidRequest([FieldProblem(where, problem)])
    done.named.add(path)
    return path


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    if member.isfifo():
        return "a FIFO"
    return "a device" if member.ischr() or member.isblk() else "of another type"


def _parents(path: bytes) -> set[bytes]:
    names = path.split(b"/")[:-1]
    return {b"/".join(names[: depth + 1]) for depth in range(len(names))}


def _read_to_end(content: gzip.GzipFile) -> None:
    """Come to the checksum; behind the archive there is nothing but padding."""
    left = _MOST_PADDING
    while data := content.read(_PIECE):
        left -= len(data)
        if left < 0:
            raise _refusal("goes on behind its end")


@contextmanager
def _readable() -> Iterator[None]:
    """Raise what the libraries say about a broken archive as a refusal."""
    try:
        yield
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise _refusal(f"is not a tar.gz, or broken ({type(error).__name__})") from None


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest([FieldProblem("archive", problem)])


def check_way(workspace: int, unpacked: Unpacked) -> None:
    """Raise NotARegularFile and others where something is in the way of what is to be moved in."""
    for wanted, is_wanted in (
        (unpacked.directories, stat.S_ISDIR),
        (unpacked.files, stat.S_ISREG),
    ):
        for path in sorted(wanted):
            with told(path):
                try:
                    found = open_beneath(workspace, path, os.O_PATH)
                except FileNotFoundError:
                    continue
                try:
                    mode = os.fstat(found).st_mode
                finally:
                    os.close(found)
                if not is_wanted(mode):
                    raise NotRegular(kind_of(mode))


def move_in(source: int, workspace: int, unpacked: Unpacked, owner: Owner | None) -> None:
    """Move what was unpacked into the open directory `source` to where it belongs.

    Raises where the code puts something in the way meanwhile; part of it is moved then.
    """
    for path in sorted(unpacked.directories):
        with told(path):
            os.close(make_directories(workspace, path, source, owner))
    for path in sorted(unpacked.files):
        directory, _, name = path.rpartition(b"/")
        with told(path):
            unpacked_in = make_directories(source, directory, source, owner)
            try:
                parent = make_directories(workspace, directory, source, owner)
                try:
                    os.rename(name, name, src_dir_fd=unpacked_in, dst_dir_fd=parent)
                finally:
                    os.close(parent)
            finally:
                os.close(unpacked_in)
