"""Load the weights of a backbone from files of timm, of this program and of the AgMax program."""

import sys
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv
from torch import Tensor, nn

from agmax.checkpoints import agmax_format
from agmax.checkpoints.read import check_state, load_weights, named_tensors, open_checkpoint, read_state
from agmax.core.errors import CheckpointError


def backbone_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a backbone by timm's keys, from a file of any of the three.

    Raises:
        CheckpointError: the file is missing, is damaged, contains code, or has no named tensors.
    """
    with open_checkpoint(path) as file:
        if path.suffix == ".safetensors":
            try:
                return safetensors.torch.load(file.read())
            except SafetensorError as error:
                raise CheckpointError("weights not loaded", where=path, why=str(error)) from error
        state = read_state(file, path)
    if agmax_format.is_agmax_checkpoint(state):
        weights = agmax_format.read_contents(state, path).weights
    elif "format" in state:
        weights = named_tensors(check_state(state, path).get("model"), path)
    else:
        nested = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
        return {key.removeprefix("module."): value for key, value in named_tensors(nested, path).items()}
    prefix = "backbone."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load the weights of a file into a backbone; a classifier of another shape keeps its initial weights.

    Raises:
        CheckpointError: the weights are of another network.
    """
    weights, own = _adapt(backbone_weights(path), backbone, path), backbone.state_dict()
    head = {id(value) for value in backbone.get_classifier().state_dict(keep_vars=True).values()}  # type: ignore[operator]
    head_keys = [key for key, value in backbone.state_dict(keep_vars=True).items() if id(value) in head]
    if not all(key in weights and weights[key].shape == own[key].shape for key in head_keys):
        weights = {key: value for key, value in weights.items() if key not in head_keys}
        weights |= {key: own[key] for key in head_keys}
    load_weights(backbone, weights, where=path, saved="a backbone", wanted=type(backbone).__name__)


def _adapt(weights: dict[str, Tensor], backbone: nn.Module, path: Path) -> dict[str, Tensor]:
    """Convert weights as timm converts its downloads: older keys, other image sizes, other input channels."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            weights = dict(convert(weights, backbone))
        except Exception as error:  # timm expects only weights of this network
            why = f"timm cannot convert them: {type(error).__name__}: {error}"
            raise CheckpointError("weights do not fit the model", where=path, why=why) from error
    stems = (getattr(backbone, "pretrained_cfg", None) or {}).get("first_conv") or ()
    for key in (f"{name}.weight" for name in ((stems,) if isinstance(stems, str) else stems)):
        value, own = weights.get(key), backbone.state_dict().get(key)
        if value is not None and own is not None and value.ndim == own.ndim == 4:
            weights[key] = adapt_input_conv(own.shape[1], value, base_chans=value.shape[1])
    return weights
