"""The errors that a user can see, each with its exit code; main() prints one line for each."""

import re
from collections.abc import Sequence

_SCHEME = r"(?:[a-z][a-z0-9+.-]*://|https?:/)"

_WHOLE = re.compile(rf"((?:-*[\w.-]+=)?{_SCHEME})(?:[^/?#]*@)?([^?#]*)(?:[?#].*)?", re.IGNORECASE | re.DOTALL)
"""An address that fills a text or the value of a flag, whatever it holds."""

_INSIDE = re.compile(
    rf"(\b{_SCHEME})(?:[^\s/?#]*@)?"
    rf"([^\s?#'\"]*(?:(?:(?!{_SCHEME})[^?#'\"])*(?=[?#]))?)(?:[?#][^\s'\"()]*)?",
    re.IGNORECASE,
)
"""An address inside a text; of what follows it, a word with ? or # may be its end, after a space that it holds."""


class AgmaxError(Exception):
    """An error that says what is wrong, where, why, and what to do about it.

    The text is `what (where): why. remedy`, without what may be secret in a URL. `exit_code` is the exit status of
    the program.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", why: str = "", remedy: str = "") -> None:
        what, place, why, remedy = (without_secrets(text) for text in (what, str(where), why, remedy))
        self.summary = (f"{what} ({place})" if place else what) + (f": {why}" if why else "")
        super().__init__(f"{self.summary}. {remedy}" if remedy else self.summary)

    @property
    def lines(self) -> list[str]:
        """Return the messages to print, one a line."""
        return [str(self)]


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
    """Return a printable text whose addresses have no user, password, query and fragment, which may be secrets."""
    pattern = _WHOLE if _WHOLE.match(text) else _INSIDE
    return printable(pattern.sub(r"\1\2", text))
