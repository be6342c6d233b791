"""A directory that the user's code owns, and may have put something else in the place of."""

from pathlib import Path


def ensure_directory(path: Path) -> None:
    """Make `path` a directory; a file or link in its place is removed, never followed."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            path.mkdir(mode=0o700)
