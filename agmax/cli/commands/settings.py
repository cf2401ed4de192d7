"""Say what can be asked for: settings, names."""

from collections.abc import Callable

from agmax.cli import parser
from agmax.cli.commands.shared import Result, print_notes
from agmax.config import names, resolve
from agmax.core.errors import UsageError


def print_config(request: parser.Request) -> Result:
    """Show every setting and where it came from."""
    if request.source is None:
        raise UsageError("no configuration", remedy="Give --config NAME; see --list")
    resolved = resolve.resolve(request.source, dataset=request.dataset, parts=request.parts, settings=request.settings)
    print_notes(request, resolved)
    if not request.as_json:
        print(resolve.as_yaml(resolved), end="")
    return resolved.config.model_dump(mode="json")


def list_all(request: parser.Request) -> Result:
    """List the configurations, parts, models or data sets there are."""
    listing = LISTINGS[request.what]()
    if not request.as_json:
        width = max(map(len, listing), default=0)
        print("\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in listing.items()))
    return {"mode": "list", request.what: listing}


def _configs() -> dict[str, str]:
    files = {path.stem: f"configs/{path.name}" for path in sorted(names.CONFIGS.glob("*.yaml"))}
    return files | {name: "" for name in names.compositions() if name not in files}


def _parts() -> dict[str, str]:
    groups = ("model", "augment", "method")
    return {item.part: f"{item.group}: {item.about}" for group in groups for item in names.examples(group)}


def _models() -> dict[str, str]:
    import timm

    from agmax.models import backbones  # noqa: F401  enters our networks

    return dict.fromkeys(timm.list_models(), "")


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": _configs,
    "parts": _parts,
    "models": _models,
    "datasets": lambda: {item.part: item.about for item in names.examples("dataset")},
}
