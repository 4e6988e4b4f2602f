"""One way to fail: a sentence for the person at the terminal, a non-zero exit, no half-written file.

A script wraps its `main` in `report_errors`. What a user can mend (a wrong value, a missing file, a full disk)
is said in one sentence without a traceback; what is our own fault keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(Exception):
    """Something the user gave is wrong: the message names the file, row or key, the value and what was expected."""


_SYSTEM_CAUSES = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EEXIST: "it is a file, expected a folder",
    errno.EISDIR: "it is a folder, expected a file",
    errno.ENOTDIR: "a part of the path is a file, expected a folder",
    errno.ENOENT: "no such file or folder",
}


def report_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main`: InputError and the disk's refusals end in one sentence and exit code 1."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except InputError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno not in _SYSTEM_CAUSES:
                raise
            # a rename names two paths; the second is the one the user asked for
            path = error.filename2 or error.filename or "a file"
            _fail(f"{path}: {_SYSTEM_CAUSES[error.errno]}. Nothing half-written was left; mend it and run again.")

    return wrapped


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(1)
