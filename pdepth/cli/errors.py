"""Errors of the command line: one sentence and an exit status; bugs keep their traceback."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]

EXPECTED = (ValueError, TypeError, ImportError, MemoryError, OSError)  # one sentence each
DIFFERS, USAGE, INTERRUPTED, UNREAD = 1, 2, 130, 141  # the last two: 128 and the signal's number


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's error into a line on standard error and an exit status; warnings into lines.

    Works as a context manager and as a decorator.
    """
    try:
        with _one_line_warnings():
            yield
    except KeyboardInterrupt as error:
        print(" ".join(["Interrupted.", *map(str, error.args)]), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of standard output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(UNREAD) from None
    except EXPECTED as error:
        if not _is_own(error):
            raise
        text = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            text = f"{error.filename}: {error.strerror}."
        text = " ".join(text.split()) or f"{type(error).__name__}."
        print(f"Error: {text}", file=sys.stderr)
        raise SystemExit(USAGE) from None


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print pdepth's own warnings as a line each, once; others as they are."""
    with warnings.catch_warnings():
        show, printed = warnings.showwarning, set[str]()

        def show_line(
            message: Any, category: Any, filename: str, lineno: int, *rest: Any, **more: Any
        ) -> None:
            if issubclass(category, UserWarning) and PACKAGE in Path(filename).parents:
                line = " ".join(f"Warning: {message}".split())
                if line not in printed:
                    print(line, file=sys.stderr)
                printed.add(line)
            else:
                show(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = show_line
        yield


def _is_own(error: BaseException) -> bool:
    """Whether an error is a sentence of pdepth's own, and no bug in a model or a library."""
    if not isinstance(error, ValueError | TypeError):
        return True
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return str(innermost.f_globals.get("__name__", "")).split(".")[0] == "pdepth"
