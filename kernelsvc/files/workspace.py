"""Workspaces: one directory a session, the working directory of its runs.

The code in a session owns its workspace. The directory that holds them all and those beside it are
the service's own: nobody else changes anything in them. So a workspace is opened relative to its
root, as a directory and never through a link, and what the service prepares for one (an upload, a
new directory) is made in the staging directory, out of the code's reach, and then moved in.

Removing is renaming first, into a directory that is emptied at start-up too: a crash half-way
leaves nothing that could be taken for a workspace. Spares are directories that sandboxes wait in
until a session comes (see `handover`), or in which something is prepared for a session that is then
moved in (see `moving_in`). The methods block and are called in a thread.
"""

import contextlib
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from kernelsvc.errors import WorkspaceFull
from kernelsvc.files.beneath import directory_at, directory_by_path
from kernelsvc.files.charge import charged
from kernelsvc.files.copying import TreeCopy
from kernelsvc.files.directory import Owner, ensure_directory
from kernelsvc.files.handover import Gate, hand_over, take_back
from kernelsvc.files.moving_in import move_in
from kernelsvc.files.own import MEMORY_FILES, NOT_COPIED, OWN_FILES
from kernelsvc.files.tree import delete_tree, empty_directory, open_unlocked, walk

log = structlog.get_logger()


class Workspaces:
    """The workspaces below `root`, named after their sessions.

    What the service creates in them belongs to `owner` (uid, gid), the user that the code runs as;
    None is the service's own.
    """

    def __init__(self, root: Path, owner: Owner | None = None) -> None:
        self.root = root
        self._trash = root.with_name(root.name + ".trash")
        self._staging = root.with_name(root.name + ".staging")
        self._spares = root.with_name(root.name + ".spares")
        self._joining = root.with_name(root.name + ".joining")
        self._gate = Gate()
        self.owner = owner

    @property
    def owner_uid(self) -> int:
        """The user whom the files of workspaces belong to."""
        return os.geteuid() if self.owner is None else self.owner[0]

    def open(self, session_ids: set[str]) -> None:
        """Make the directories, and clear away what belongs to no session."""
        emptied = (self._trash, self._staging, self._spares)
        for directory in (self.root, self._joining, *emptied):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in os.listdir(self.root):
            if name not in session_ids:
                self.remove(name)
        for session_id in session_ids:
            self.create(session_id)
        with _opened(self.root) as root, _opened(self._joining) as joining:
            for name in os.listdir(joining):
                if name in session_ids:
                    take_back(root, os.fsencode(name), joining)
                else:
                    _tell(delete_tree(joining, os.fsencode(name)), name)
        for directory in emptied:
            with _opened(directory) as left_over:
                _tell(empty_directory(left_over), directory.name)

    def path(self, session_id: str) -> Path:
        """Where the session's files are: for whom it is shown to, not for opening anything."""
        return self.root / session_id

    def create(self, session_id: str) -> None:
        """Make an empty workspace; one that is there stays as it is."""
        with _opened(self.root) as root:
            ensure_directory(root, os.fsencode(session_id), self.owner)

    def remove(self, session_id: str) -> None:
        """Delete the workspace with everything in it; none is fine too.

        What cannot be deleted is logged. It is out of every session's sight.
        """
        with _opened(self.root) as root:
            self.throw_away(root, os.fsencode(session_id), session_id)

    def throw_away(self, parent: int, name: bytes, session_id: str) -> None:
        """Delete what has this name in an open directory, which is the session's; none is fine too.

        As far as anybody else can see, all of it goes at once.
        """
        doomed = secrets.token_hex(8).encode()
        with _opened(self._trash) as trash:
            # A directory that its owner has locked could not be moved.
            if (found := open_unlocked(parent, name)) is not None:
                os.close(found)
            try:
                os.rename(name, doomed, src_dir_fd=parent, dst_dir_fd=trash)
            except FileNotFoundError:
                return
            except OSError:
                _tell(delete_tree(parent, name), session_id)
                return
            _tell(delete_tree(trash, doomed), session_id)

    def renew(self, session_id: str) -> None:
        """Replace the workspace by an empty one."""
        self.remove(session_id)
        self.create(session_id)

    @contextmanager
    def directory(self, session_id: str) -> Iterator[int]:
        """The session's open workspace; raises OSError where there is none."""
        with (
            self._gate.using(session_id),
            _opened(self.root) as root,
            directory_at(root, os.fsencode(session_id)) as workspace,
        ):
            yield workspace

    def has_any(self, session_id: str, names: Iterable[str]) -> bool:
        """Whether one of these names is at the top of the session's workspace."""
        with contextlib.suppress(OSError), self.directory(session_id) as workspace:
            return not {*names}.isdisjoint(os.listdir(workspace))
        return False

    def make_spare(self) -> Path:
        """An empty directory that `hand_over` can make a session's."""
        name = secrets.token_hex(8)
        with _opened(self._spares) as spares:
            ensure_directory(spares, os.fsencode(name), self.owner)
        return self._spares / name

    def drop_spare(self, spare: Path) -> None:
        """Remove a spare that no session has taken; none is fine too."""
        with _opened(self._spares) as spares:
            _tell(delete_tree(spares, os.fsencode(spare.name)), spare.name)

    def move_in(self, session_id: str, spare: Path, names: Iterable[str], limit: float) -> None:
        """Move what has these names in a spare into the session's workspace.

        Raises WorkspaceFull where it would hold more than `limit` bytes then, and OSError.
        """
        with self.directory(session_id) as workspace, directory_by_path(os.fsencode(spare)) as new:
            total = charged(workspace, limit) + charged(new, limit)
            if total > limit:
                raise WorkspaceFull(int(limit), total)
            for name in names:
                move_in(workspace, new, os.fsencode(name))

    def discard(self, session_id: str, name: str) -> None:
        """Delete what has this name in the session's workspace; none is fine too."""
        with contextlib.suppress(OSError), self.directory(session_id) as workspace:
            _tell(delete_tree(workspace, os.fsencode(name)), session_id)

    def hand_over(self, session_id: str, spare: Path) -> None:
        """Make a spare the session's workspace, with all files of the one before.

        Nothing of the session's may run. Raises NotHandedOver; the workspace is then as it was.
        """
        with (
            self._gate.alone(session_id),
            _opened(self.root) as root,
            _opened(self._spares) as spares,
            _opened(self._joining) as joining,
        ):
            session = os.fsencode(session_id)
            hand_over(root, session, spares, os.fsencode(spare.name), joining)

    def begin_copy(
        self, session_id: str, limit: int, check: Callable[[], None], *, memory: bool = True
    ) -> Path:
        """A copy of the workspace, without its data file, in the staging directory.

        With `memory`, the file of what the session remembers is in it, too. `limit` and `check` are
        as `TreeCopy` has them, and so is what is raised: nothing is left then. What is returned
        goes to `place_copy` or `drop_copy`.
        """
        name = secrets.token_hex(8)
        with _opened(self._staging) as staging:
            ensure_directory(staging, os.fsencode(name), self.owner)
            try:
                with (
                    self.directory(session_id) as source,
                    directory_at(staging, os.fsencode(name)) as target,
                ):
                    left_out = NOT_COPIED if memory else OWN_FILES
                    TreeCopy(
                        source, target, self.owner, self.owner_uid, left_out, limit, check
                    ).make()
            except BaseException:
                self.drop_copy(self._staging / name)
                raise
        return self._staging / name

    def place_copy(self, copy: Path, session_id: str) -> None:
        """Make a copy the workspace of a session that does not exist yet."""
        # What is there is what could not be deleted of a session that is gone.
        self.remove(session_id)
        with _opened(self._staging) as staging, _opened(self.root) as root:
            name, session = os.fsencode(copy.name), os.fsencode(session_id)
            os.rename(name, session, src_dir_fd=staging, dst_dir_fd=root)

    def drop_copy(self, copy: Path) -> None:
        """Remove a copy that was not placed; none is fine too."""
        with _opened(self._staging) as staging:
            _tell(delete_tree(staging, os.fsencode(copy.name)), copy.name)

    @contextmanager
    def staging(self) -> Iterator[int]:
        """The open directory in which things are made before they are moved to where they belong.

        It is on the workspaces' file system, and code cannot reach it.
        """
        with _opened(self._staging) as staging:
            yield staging

    def usage(self, session_id: str) -> tuple[int, int]:
        """How many files the session keeps, and their bytes; links are not followed."""
        count = size = 0
        with contextlib.suppress(OSError), self.directory(session_id) as workspace:
            for entry in walk(workspace):
                is_file = not stat.S_ISDIR(entry.status.st_mode)
                if is_file and entry.path not in OWN_FILES:
                    count += 1
                    size += entry.status.st_size
        return count, size

    def forget_memory(self, session_id: str) -> None:
        """Delete what was kept of the session's memory; none is fine too."""
        with contextlib.suppress(OSError), self.directory(session_id) as workspace:
            for name in MEMORY_FILES:
                delete_tree(workspace, name)

    def charged(self, session_id: str, enough: float = math.inf) -> int:
        """The bytes that count against the session's limit; not all, where it is over `enough`."""
        with contextlib.suppress(OSError), self.directory(session_id) as workspace:
            return charged(workspace, enough)
        return 0


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    with directory_by_path(os.fsencode(directory)) as descriptor:
        yield descriptor


def _tell(left: int, what: str) -> None:
    if left:
        log.warning("files_not_deleted", workspace=what, count=left)
