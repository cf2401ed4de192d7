"""Export a model: as safetensors, as an ONNX graph, or the backbone without its classifier."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agmax.core.errors import OutputError, UsageError
from agmax.core.storage import output_file
from agmax.experiments.model import Model

MAX_DIFFERENCE = 1e-4
"""Largest accepted difference of logits between onnxruntime and torch, as a fraction of a row's standard deviation."""


class Graph(nn.Module):
    """The exported module: images [N, C, H, W], normalized or (`with_normalization`) from 0 to 1, to logits [N, K]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model, *, with_normalization: bool) -> None:
        super().__init__()
        self.model = model
        mean, std = model.config.normalization if with_normalization else ([0.0], [1.0])
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.with_normalization = with_normalization

    def forward(self, images: Tensor) -> Tensor:
        if self.with_normalization:
            images = (images - self.mean) / self.std
        logits: Tensor = self.model(images)
        return logits


def safetensors(model: Model, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the backbone's tensors under timm's keys; the metadata hold configuration, classes and image statistics."""
    from safetensors.torch import save

    backbone = model.classifier.backbone
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    data = save(tensors, metadata=_metadata(model))
    with output_file(path, force=force) as file:
        file.write(data)
    return {"num_tensors": len(tensors)}


def extractor(model: Model, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the backbone's tensors without those of its classifier, under timm's keys.

    It replaces --save-extractor of the AgMax program. That program's files of RegNet and EfficientNet differ: their
    keys begin with `features.`, and they contain an unused classifier.
    """
    backbone = model.classifier.backbone
    head = {id(value) for value in backbone.get_classifier().state_dict(keep_vars=True).values()}  # type: ignore[operator]
    tensors = {key: value for key, value in backbone.state_dict(keep_vars=True).items() if id(value) not in head}
    with output_file(path, force=force) as file:
        torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file)
    return {"num_tensors": len(tensors)}


def onnx(model: Model, path: Path, *, force: bool = False, with_normalization: bool = False) -> dict[str, Any]:
    """Write an ONNX graph for any batch size; if onnxruntime is installed, compare its logits with torch's first.

    Raises:
        UsageError: a package is missing.
        OutputError: the logits of the graph differ from the model's.
    """
    try:
        import onnxscript  # noqa: F401  torch needs it; its own error is long
    except ModuleNotFoundError as error:
        why, remedy = "--export onnx needs it", "Run python3 -m pip install onnx onnxscript onnxruntime"
        raise UsageError("missing package", where=str(error.name), why=why, remedy=remedy) from error
    size = model.config.test_image_size
    images = torch.rand(3, model.config.input_channels, size, size, generator=torch.Generator().manual_seed(0))
    graph = Graph(model.cpu(), with_normalization=with_normalization).eval()
    model.classifier.autocast = None  # the runtime chooses its own dtype
    program = torch.onnx.export(
        graph,
        (images[:2],),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(model))
    data = program.model_proto.SerializeToString()
    difference = _difference(graph, data, images)
    if difference is not None and not difference <= MAX_DIFFERENCE:  # true for nan too
        why = f"its logits differ by {difference:.1e} of their standard deviation"
        raise OutputError("the ONNX graph differs from the model", where=path, why=why)
    with output_file(path, force=force) as file:
        file.write(data)
    return {"largest_difference": difference, "with_normalization": with_normalization}


def _difference(graph: Graph, data: bytes, images: Tensor) -> float | None:
    """Return the largest difference of a logit in onnxruntime, as a fraction of its row's standard deviation.

    Return None if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected = graph(images)
    return float(((torch.from_numpy(logits) - expected).abs().amax(1) / expected.std(1)).max())


def _metadata(model: Model) -> dict[str, str]:
    """Return what the weights are and what images they need, as strings that every format can store."""
    mean, std = model.config.normalization
    return {
        "config": model.config.name,
        "backbone": model.config.model.backbone,
        "backbone_arguments": json.dumps(model.config.model.arguments),
        "dataset": model.config.dataset.name,
        "class_names": json.dumps(list(model.class_names)),
        "image_size": str(model.config.test_image_size),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }


FORMATS = {"safetensors": (safetensors, ".safetensors"), "onnx": (onnx, ".onnx"), "extractor": (extractor, ".pth")}
"""The choices of --export: the function that writes the file, and the file's suffix."""
