"""--summary: show the model's layers, parameters, FLOPs and MACs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from agmax import builders
from agmax.cli.commands.shared import ModeResult, print_notes
from agmax.cli.parser import Request
from agmax.config import resolve


def run(request: Request) -> ModeResult:
    """Show the model of a configuration."""
    typed = resolve.layer_config(request.config_request).resolve()
    print_notes(request, typed)
    config = typed.config
    classifier = builders.model(config).eval()
    size = config.test_image_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        classifier(torch.zeros(1, 1, config.input_channels, size, size))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in classifier.named_children()}
    result: ModeResult = {
        "mode": "summary",
        "config": config.name,
        "dataset": config.dataset.name,
        "parameters": sum(count.values()),
        "backbone_parameters": count["backbone"],
        "q_network_parameters": count.get("q_network", 0),
        "image_size": size,
        "flops_per_image": counter.get_total_flops(),
        "macs_per_image": counter.get_total_flops() // 2,
    }
    if not request.as_json:
        print(classifier)
        print(
            f"{result['parameters']:,} parameters: {count['backbone']:,} in the backbone with its classifier, "
            f"{result['q_network_parameters']:,} in the Q network, which is used only in training\n"
            f"{result['macs_per_image'] / 1e6:,.1f} million MACs (multiply-adds, which papers often call FLOPs), or "
            f"{result['flops_per_image'] / 1e6:,.1f} million FLOPs for an image of {size}x{size}"
        )
    return result
