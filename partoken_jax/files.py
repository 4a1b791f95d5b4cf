"""Whether a path can be read as a file. Every kind of input is checked here first, without opening it."""

import os
import stat
from pathlib import Path


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
