"""The errors that a user can see, each with its exit code; main() prints one line for each."""

import re
from collections.abc import Sequence

_URL = re.compile(
    r"(\b(?:[a-z][a-z0-9+.-]*://|https?:/))(?:[^\s/?#@]*@)?([^\s?#'\"()]*)(?:[?#][^\s'\"()]*)?", re.IGNORECASE
)
"""An address in a text; the groups are its scheme and place, without user, password, query and fragment."""


class AgmaxError(Exception):
    """An error that says what is wrong, where, why, and what to do about it.

    The text is `what (where): why. remedy`, without what may be secret in a URL. `exit_code` is the exit status of
    the program.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", why: str = "", remedy: str = "") -> None:
        text = f"{what} ({where})" if str(where) else what
        if why:
            text += f": {why}"
        self.summary = _show(text)  # without the remedy
        super().__init__(_show(f"{text}. {remedy}" if remedy else text))

    @property
    def lines(self) -> list[str]:
        """Return the messages to print, one a line."""
        return [str(self)]


def _show(text: str) -> str:
    return printable(_URL.sub(r"\1\2", text))


class UsageError(AgmaxError):
    """An invalid command line or setting."""

    exit_code = 2


class ConfigErrors(UsageError):
    """All errors of a configuration, reported together."""

    def __init__(self, errors: Sequence[AgmaxError]) -> None:
        Exception.__init__(self, "\n".join(str(error) for error in errors))
        self.errors = tuple(errors)

    @property
    def lines(self) -> list[str]:
        return [str(error) for error in self.errors]


class DataError(AgmaxError):
    """A data set that is missing, empty, or different from what the configuration says."""

    exit_code = 3


class CheckpointError(AgmaxError):
    """A checkpoint that is missing, damaged, unsafe, or made for another model."""

    exit_code = 4


class DownloadError(AgmaxError):
    """A download that failed or delivered another file."""

    exit_code = 5


class OutputError(AgmaxError):
    """An output folder that cannot be written or is full."""

    exit_code = 6


class DiskFullError(OutputError):
    """A disk without enough space, or a quota that is reached."""


class DivergedError(AgmaxError):
    """A training whose loss is not a finite number."""

    exit_code = 7


class ResourceError(AgmaxError):
    """A missing device, insufficient memory, or a data worker that was killed."""

    exit_code = 8


class BusyError(AgmaxError):
    """A run folder or file that another program is writing."""

    exit_code = 9


def printable(text: str) -> str:
    """Escape control characters, so that a file name cannot break the line or the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_secrets(text: str) -> str:
    """Return a URL without user, password, query and fragment, which may be secrets."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    return printable(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")
