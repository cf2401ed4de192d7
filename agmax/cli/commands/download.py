"""--download: fetch released checkpoints."""

from agmax.checkpoints import agmax_format
from agmax.cli.commands.shared import Result
from agmax.cli.parser import Request
from agmax.config import names
from agmax.core.errors import CheckpointError, DownloadError, UsageError
from agmax.core.logs import log
from agmax.experiments.saved import CHECKPOINTS


def run(request: Request) -> Result:
    """Fetch the file that is named, or all of them."""
    (text,) = request.options["names"]
    found = agmax_format.find_release(text)
    if found is None and text != "all":
        remedy = names.nearest(text, [*agmax_format.RELEASED, "all"])
        raise UsageError("no released checkpoint", where=text, remedy=remedy)
    files, failed = [], []
    for name in [found] if found else agmax_format.RELEASED:
        try:
            file = agmax_format.verify_release(agmax_format.fetch_release(name, CHECKPOINTS))
        except (DownloadError, CheckpointError) as error:
            if found:
                raise
            log.warning("warning: %s", error)
            failed.append(name)
            continue
        files.append(file._asdict() | {"path": str(file.path)})
        words = "%s: %.1f MiB, sha256 %s, " + ("as recorded" if file.is_verified else "not verified: none is recorded")
        log.info(words, file.path, file.size / 2**20, file.sha256)
    if failed:
        raise DownloadError("not all files are there", where=", ".join(failed), why="the warnings above say why")
    return {"mode": "download", "files": files}
