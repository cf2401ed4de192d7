"""--list: list configurations, parts, models or data sets."""

from collections.abc import Callable

from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.config import names


def run(request: Request) -> ModeResult:
    """List the names of the request."""
    word = request.options["word"]
    listing = LISTINGS[word]()
    if not request.as_json:
        width = max(map(len, listing), default=0)
        print("\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in listing.items()))
    return {"mode": "list", word: listing}


def _configs() -> dict[str, str]:
    files = {path.stem: f"configs/{path.name}" for path in sorted(names.CONFIGS.glob("*.yaml"))}
    return files | {name: "" for name in names.compositions() if name not in files}


def _parts() -> dict[str, str]:
    groups = ("model", "augment", "method")
    return {item.part: f"{item.group}: {item.about}" for group in groups for item in names.examples(group)}


def _models() -> dict[str, str]:
    import timm

    from agmax.models import backbones  # noqa: F401  registers our networks

    return dict.fromkeys(timm.list_models(), "")


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": _configs,
    "parts": _parts,
    "models": _models,
    "datasets": lambda: {item.part: item.about for item in names.examples("dataset")},
}
"""Word of --list -> names with descriptions."""
