"""--print-config: show every setting with its origin."""

from agmax.cli.commands.shared import ModeResult, print_notes
from agmax.cli.parser import Request
from agmax.config import resolve


def run(request: Request) -> ModeResult:
    """Show the resolved configuration."""
    resolved = resolve.layer_config(request.config_request).resolve()
    print_notes(request, resolved)
    if not request.as_json:
        print(resolve.as_yaml(resolved), end="")
    return resolved.config.model_dump(mode="json")
