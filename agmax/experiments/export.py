"""Hand a model's weights on: as safetensors, as an ONNX graph, or the backbone without its classifier."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agmax.core.errors import OutputError, UsageError
from agmax.core.storage import output_file
from agmax.experiments.model import Model

MAX_DIFFERENCE = 1e-4
"""Of logits in onnxruntime from torch's, as a share of a row's standard deviation."""


class Graph(nn.Module):
    """A model as a graph of its own: images [N, C, H, W], normalised or on the scale from 0 to 1, to logits [N, K]."""

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
    """Write the backbone's tensors by timm's keys, with what they are and what images must be like as metadata."""
    from safetensors.torch import save

    backbone = model.classifier.backbone
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    written = save(tensors, metadata=_describe(model))
    with output_file(path, force=force) as file:
        file.write(written)
    return {"num_tensors": len(tensors)}


def extractor(model: Model, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the backbone's tensors without those of its classifier, by timm's keys.

    It is what the AgMax program's --save-extractor is for; for RegNet and EfficientNet that program's keys begin with
    `features.` and its file has an unused classifier.
    """
    backbone = model.classifier.backbone
    head = {id(value) for value in backbone.get_classifier().state_dict(keep_vars=True).values()}  # type: ignore[operator]
    kept = {key: value for key, value in backbone.state_dict(keep_vars=True).items() if id(value) not in head}
    with output_file(path, force=force) as file:
        torch.save({key: value.detach().cpu().contiguous() for key, value in kept.items()}, file)
    return {"num_tensors": len(kept)}


def onnx(model: Model, path: Path, *, force: bool = False, with_normalization: bool = False) -> dict[str, Any]:
    """Write a graph that takes any number of images, and compare its logits with torch's where onnxruntime is there.

    Raises:
        UsageError: a package is missing.
        OutputError: the graph answers otherwise than the model.
    """
    try:
        import onnxscript  # noqa: F401  torch needs it, and says so at length
    except ModuleNotFoundError as error:
        remedy = "Run python3 -m pip install onnx onnxscript onnxruntime"
        raise UsageError(
            "missing package", where=str(error.name), why="graphs are made with it", remedy=remedy
        ) from error
    size = model.config.test_image_size
    images = torch.rand(3, model.config.input_channels, size, size, generator=torch.Generator().manual_seed(0))
    graph = Graph(model.cpu(), with_normalization=with_normalization).eval()
    model.classifier.autocast = None  # what runs it chooses its own number format
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
    program.model.metadata_props.update(_describe(model))
    written = program.model_proto.SerializeToString()
    difference = _difference(graph, written, images)
    if difference is not None and not difference <= MAX_DIFFERENCE:  # nor is it nan
        why = f"its logits differ by {difference:.1e} of their deviation"
        raise OutputError("the ONNX graph is not the model", where=path, why=why)
    with output_file(path, force=force) as file:
        file.write(written)
    return {"largest_difference": difference, "with_normalization": with_normalization}


def _difference(graph: Graph, written: bytes, images: Tensor) -> float | None:
    """Return the largest difference of a logit in onnxruntime, as a share of its row's deviation; None without it."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected = graph(images)
    return float(((torch.from_numpy(found) - expected).abs().amax(1) / expected.std(1)).max())


def _describe(model: Model) -> dict[str, str]:
    """Say what the weights are, in words that every format can keep."""
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
"""The words of --export: what writes the file, and its ending."""
