"""What a method needs of a network that can be encoder, denoiser or base: the U-ViT has it, and so has each U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from models.uvit import Conditioning, Output, Projection


class BackboneConfig(Protocol):
    """Shape of a network. Tuples have one entry per level, from the highest resolution to the lowest."""

    @property
    def channels(self) -> int:
        """Of the images that come in."""

    @property
    def out_channels(self) -> int | None:
        """Of the image that comes out; None for a network of features only."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the features of each level."""

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the features of each level."""

    @property
    def classes(self) -> int | None:
        """Number of classes; None for a network without labels."""

    @property
    def context_channels(self) -> tuple[int, ...] | None:
        """Channels of the context at each level, 0 where it takes none; None for a network without context."""


class Backbone(Protocol):
    """A network of levels that hand out features and take context. It is an ``nn.Module``."""

    @property
    def config(self) -> BackboneConfig:
        """Its shape."""

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """What no step changes: see :meth:`models.uvit.UViT.condition`."""

    def project_context(self, features: Sequence[Tensor]) -> Projection:
        """The context of every place of entry: see :meth:`models.uvit.UViT.project_context`."""

    def __call__(self, *inputs: Any, **further: Any) -> Output:
        """One evaluation: see :meth:`models.uvit.UViT.forward`."""
