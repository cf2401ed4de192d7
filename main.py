"""Train and evaluate image classifiers by configuration name: `python3 main.py --help`."""

import sys

if sys.version_info < (3, 11):
    print(f"error: Python 3.11 or newer is needed (found {sys.version.split()[0]})", file=sys.stderr)
    raise SystemExit(2)

import json
import traceback
from collections.abc import Sequence

from agmax.core import streams
from agmax.core.errors import AgmaxError
from agmax.core.signals import Stopped, stop_at_once


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mode and return the exit status. Errors are printed to stderr, one line each."""
    argv = sys.argv[1:] if argv is None else argv
    streams.prepare()
    try:
        with stop_at_once(), streams.write_stdout():
            from agmax.cli import parser, run

            request = parser.parse(argv)
            result = run.run(request)
            if request.as_json:
                print(json.dumps(result))
        return 0
    except AgmaxError as error:
        if "--debug" in argv:
            traceback.print_exc()
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        return missing_package(error)
    except KeyboardInterrupt as stop:  # Stopped, or a second Ctrl-C while it is handled
        print(f"error: {str(stop) or 'stopped by SIGINT'}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Stopped) else 130


def missing_package(error: ModuleNotFoundError) -> int:
    """Print the name of the package that is not installed, and return the exit status."""
    if not error.name or error.name.startswith("agmax"):
        raise error
    print(f"error: missing package ({error.name}). Run python3 -m pip install -r requirements.txt", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
