"""Weights to start a backbone from: files of timm, of this program and of the AgMax program."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agmax.checkpoints import released
from agmax.checkpoints.load import checked, load_weights, opened, read
from agmax.errors import CheckpointError


def backbone_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a backbone by timm's keys, whoever wrote the file.

    Raises:
        CheckpointError: the file is missing, damaged, holds programs, or no tensors by name.
    """
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError("weights not loaded", where=path, why=str(error)) from error
    with opened(path) as file:
        state = read(file, path)
    if released.is_of_agmax(state):
        found = released.contents(state, path).weights
    elif "format" in state:
        found = checked(state, path)["model"]
    else:
        nested = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
        return _tensors(nested, path)
    prefix = "backbone."
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def _tensors(state: dict[str, object], path: Path) -> dict[str, Tensor]:
    found = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if len(found) < len(state) or not found:
        raise CheckpointError("weights not loaded", where=path, why="it is no mapping of names to tensors")
    return found


def start_from(backbone: nn.Module, path: Path) -> None:
    """Give a backbone the weights of a file; a classifier for other classes stays as it is, new.

    Raises:
        CheckpointError: they are of another network.
    """
    weights, own = backbone_weights(path), backbone.state_dict()
    head = {id(value) for value in backbone.get_classifier().state_dict(keep_vars=True).values()}  # type: ignore[operator]
    of_head = [key for key, value in backbone.state_dict(keep_vars=True).items() if id(value) in head]
    fits = all(key in weights and weights[key].shape == own[key].shape for key in of_head)
    if not fits:
        weights = {key: value for key, value in weights.items() if key not in of_head}
        weights |= {key: own[key] for key in of_head}
    load_weights(backbone, weights, where=path, saved="a backbone", wanted=type(backbone).__name__)
