"""The trained model: a backbone, and for AgMax a Q network."""

import torch
from torch import Tensor, nn

from agmax.core.batch import Outputs
from agmax.losses import objectives


class QNetwork(nn.Module):
    """Predict the class from the concatenated logits of all views (Atienza 2022, the network Q)."""

    def __init__(self, num_views: int, num_classes: int, hidden_units: int | None = None) -> None:
        """With `hidden_units` None the width depends on the number of classes, as in the AgMax program."""
        super().__init__()
        hidden_units = hidden_units or objectives.hidden_units(num_classes)
        self.num_views = num_views
        self.model = nn.Sequential(
            nn.Linear(num_views * num_classes, hidden_units), nn.ReLU(), nn.Linear(hidden_units, num_classes)
        )

    def forward(self, logits: Tensor) -> Tensor:
        """Return the joint logits [N, K] of logits [N, V, K]."""
        joint: Tensor = self.model(logits.flatten(1))
        return joint


class Classifier(nn.Module):
    """Classify all views of a batch in one call of the backbone, so that they share batch-norm statistics.

    `autocast` is the dtype for autocast, or None for the parameters' own. Autocast is entered in `forward`, because
    DataParallel's threads inherit that it is enabled but not its dtype.
    """

    def __init__(
        self, backbone: nn.Module, q_network: QNetwork | None = None, *, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.q_network = q_network
        self.autocast = autocast
        self.returns_features = False

    def forward(self, images: Tensor) -> Outputs:
        """Return the outputs for images [N, V, C, H, W]; half-precision results are converted to float32.

        Raises:
            ValueError: the images have another number of dimensions.
        """
        if images.ndim != 5:
            raise ValueError(
                f"images (Classifier): shape {list(images.shape)}. "
                "Give [N, V, C, H, W]; for one view of each image, images[:, None] of [N, C, H, W]"
            )
        num_images, num_views = images.shape[:2]
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        enabled = self.autocast is not None
        with torch.autocast(images.device.type, dtype=self.autocast, enabled=enabled):
            features, logits = self._forward(flat)
            logits = logits.unflatten(0, (num_images, num_views))
            joint = None
            if self.q_network is not None and num_views == self.q_network.num_views:
                joint = self.q_network(logits)
        if features is not None:
            features = _at_least_float32(features).unflatten(0, (num_images, num_views))
        return Outputs(_at_least_float32(logits), None if joint is None else _at_least_float32(joint), features)

    def _forward(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return pooled features [B, F], or None if they are not needed, and logits [B, K]."""
        if not self.returns_features:
            return None, self.backbone(images)
        features = self.backbone.forward_head(self.backbone.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return features, self.backbone.get_classifier()(features)  # type: ignore[operator]


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
