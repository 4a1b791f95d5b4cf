"""Files: whether one can be read, how one is written whole, and how a process keeps one to itself."""

import fcntl
import os
import stat
import warnings
from pathlib import Path
from typing import IO


def unreadable(path: Path) -> str | None:
    """Why a path cannot be read as a file, in words for a sentence; None if it can be.

    Only regular files can: a pipe or a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file" if not path.is_symlink() else "a link to a file that does not exist"
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    if stat.S_ISDIR(mode):
        return "is a directory"
    if not stat.S_ISREG(mode):
        return "is a pipe or a device, not a regular file"
    return None if os.access(path, os.R_OK) else "permission denied"


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that whoever reads it finds the old content or the new one, never a part.

    Raises OSError, and then leaves the old content.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:  # a full disk does not say which file it is about
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def locked_by_other(file: IO) -> bool:
    """Locks an open file for this process until it is closed or the process ends, however that comes about.

    Returns whether another process has it. On a file system without locks that is not known, and a warning.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        warnings.warn(
            f"{file.name}: cannot be locked ({error.strerror}); see to it that no other process works there",
            stacklevel=2,
        )
    return False
