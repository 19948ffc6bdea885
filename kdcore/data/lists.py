"""The text files in which published data sets list their images."""

from collections.abc import Iterator
from pathlib import Path

from kdcore.errors import UserError


def entries(path: Path, form: str, separator: str | None = None, fields: int = 2) -> Iterator[list[str]]:
    """The fields of every line that is not blank.

    Args:
        path: of the list, UTF-8.
        form: of a line, for messages.
        separator: of the fields; when absent, white space, of which the last field may have some.
        fields: the least number of them.

    Raises:
        UserError: it cannot be read, is not text, or has a shorter line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is it as published?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error}); is it as published?") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found = line.strip().split(separator, -1 if separator else fields - 1)
            if len(found) < fields:
                raise UserError(f"{path}, line {number}: expected {form}, not {line!r}; is it as published?")
            yield found
