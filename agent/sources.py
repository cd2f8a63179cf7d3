"""Files that the user names on the command line: kernels and references, as `FILE.py:FUNCTION`."""

from __future__ import annotations

from pathlib import Path

from tools.task_errors import RequestError


def read_function(text: str) -> tuple[str, str]:
    """Source and function name of `file.py:function`.

    Raises:
        RequestError: the text has another form, or the file can't be read.
    """
    path, _, function = text.rpartition(":")
    if not path or not function.isidentifier():
        raise RequestError(f"{text!r} doesn't name a function; write file.py:function")
    return read_file(Path(path)), function


def read_file(path: Path) -> str:
    """Text of a file.

    Raises:
        RequestError: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"can't read {path} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} isn't UTF-8 text; give a Python file") from error
