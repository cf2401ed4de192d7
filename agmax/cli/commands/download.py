"""--download: download released checkpoints."""

from agmax.checkpoints import agmax_format
from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.config import names
from agmax.core.errors import CheckpointError, DownloadError, UsageError
from agmax.core.logs import log
from agmax.experiments.saved import CHECKPOINTS


def run(request: Request) -> ModeResult:
    """Download the file of the request, or all files."""
    (text,) = request.options["names"]
    release = agmax_format.find_release(text)
    if release is None and text != "all":
        remedy = names.nearest(text, [*agmax_format.RELEASED, "all"])
        raise UsageError("no released checkpoint", where=text, remedy=remedy)
    files, failed = [], []
    for name in [release] if release else agmax_format.RELEASED:
        try:
            file = agmax_format.verify_release(agmax_format.fetch_release(name, CHECKPOINTS))
        except (DownloadError, CheckpointError) as error:
            if release:
                raise
            log.warning("warning: %s", error)
            failed.append(name)
            continue
        files.append(file._asdict() | {"path": str(file.path)})
        words = "%s: %.1f MiB, sha256 %s, " + (
            "as expected" if file.is_verified else "not verified: no checksum is known"
        )
        log.info(words, file.path, file.size / 2**20, file.sha256)
    if failed:
        raise DownloadError("some files were not downloaded", where=", ".join(failed), why="see the warnings above")
    return {"mode": "download", "files": files}
