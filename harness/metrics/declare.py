"""How metrics and feature extractors declare themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from harness import plugins
from harness.wording import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

Need = Literal["features", "images", "logits"]


@dataclass(frozen=True)
class Measure:
    """One number of a metric: its name in records and tables, and which way is better."""

    name: str
    """In records and CSV files, as ``precision``."""
    label: str = ""
    """In tables, as ``FD-{features}``: ``{features}`` becomes the extractor's label. The name with spaces if empty."""
    inception_label: str = ""
    """In tables where the features are Inception's with the official weights, as ``FID``: a name that no other
    features may have. The `label` if empty."""
    better: Literal["lower", "higher"] = "lower"

    def label_for(self, features: str, inception: bool) -> str:
        """The label beside features of the label `features`; `inception`: with the official Inception weights."""
        if inception and self.inception_label:
            return self.inception_label
        return self.label.format(features=features) if self.label else self.name.replace("_", " ")


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error over draws of the images, where the metric tells one."""

    value: float
    standard_error: float | None = None


@dataclass(frozen=True)
class ImageSet:
    """What a metric may look at of one set of N images, generated or real; only what it has declared to need is there.

    `features` (N, width) float32 and `logits` (N, classes) are the extractor's, on the CPU; `images` gives uint8
    (N, 1 or 3, H, W).
    """

    features: Tensor
    images: Callable[[], Tensor]
    logits: Tensor | None = None
    extractor: str = ""
    """Name of the features, as a configuration has it."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What is computed once for a reference that many sets are compared with: see :meth:`once`."""

    def __len__(self) -> int:
        return len(self.features)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first asked for `key`."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


Values = Mapping[str, Estimate | float]


@dataclass(frozen=True)
class Metric:
    """A metric of generated images against real ones."""

    name: str
    """In a configuration's ``measure.metrics``."""
    measures: tuple[Measure, ...]
    """The numbers it gives, in the order of their columns."""
    compute: Callable[[ImageSet, ImageSet], Values]
    """(generated, real) → the numbers by name. Others than the declared `measures` are kept in the record beside them
    (a spread, a second computation) and stand in no table."""
    needs: frozenset[Need] = frozenset({"features"})
    least_images: int = 2
    """Fewest images of each side."""
    least_because: str = "a covariance"
    """What needs that many, in words."""
    flag: str | None = None
    """The key under ``measure`` that turns it on beside ``measure.metrics``, such as ``inception_score``."""
    always: bool = False
    """Whether it is measured in every cell."""
    resamples: int = 0
    """Bootstrap draws of the generated images for the standard errors that `compute` does not tell; 0 for none."""

    def __post_init__(self) -> None:
        """Raise ValueError for a declaration that would otherwise fail only after networks have been trained."""
        names = [measure.name for measure in self.measures]
        if not names:
            raise ValueError(f"metric {self.name!r}: measures: none; at least one is needed")
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise ValueError(f"metric {self.name!r}: measures: {name!r} must be a name of its own, as in Python")
        if unknown := sorted(set(self.needs) - set(get_args(Need))):
            raise ValueError(f"metric {self.name!r}: needs: {unknown[0]!r} is not one of {', '.join(get_args(Need))}")
        if self.resamples < 0 or self.resamples == 1:
            raise ValueError(f"metric {self.name!r}: resamples: {self.resamples}; 0 for none, or at least 2")
        for measure in self.measures:
            try:
                measure.label_for("", inception=False)
            except (LookupError, ValueError) as error:
                raise ValueError(
                    f"metric {self.name!r}: label: {measure.label!r} may hold {{features}} alone ({error})"
                ) from None


@dataclass(frozen=True)
class ExtractorKind:
    """A kind of features: the network that makes them, what it takes, and what it is called."""

    name: str
    """In a configuration's ``measure.features``."""
    label: str
    """In tables, as ``Inception``."""
    width: int
    preprocessing: str
    """In words; part of the identity of the features, so that a change of it is a change of them."""
    build: Callable[[Path | None], nn.Module]
    """The network with its weights: from a path, or (None) from where they usually are. Raises DataError."""
    features: Callable[[nn.Module, Tensor], Tensor | tuple[Tensor, Tensor]]
    """uint8 images (B, 3, H, W) → features (B, width), with `logits` (features, logits (B, classes))."""
    logits: bool = False
    """Whether `features` gives the logits of a classifier too, which the Inception score needs."""
    heavy: bool = True
    """Whether it is a network of ImageNet's size: on a CPU it then runs channels last, on few images at once."""
    weights_sha256: str | None = None
    """How the SHA-256 of the usual weights begins; part of every cell's id."""
    weights_file: Callable[[], Path] | None = None
    """Where the usual weights lie, if their SHA-256 is not known ahead: the file's is part of the id then."""
    only_data: str | None = None
    """The one data set that it is for, if there is one."""
    layer: str = ""
    """Name of the features in the cache of references; the width if empty."""

    @property
    def layer_name(self) -> str:
        return self.layer or str(self.width)


T = TypeVar("T", Metric, ExtractorKind)


def by_name(name: str, known: Mapping[str, T], kind: type[T]) -> T:
    """The entry of `known` called `name`, or what ``package.module:NAME`` names. Raises ValueError with the choices."""
    if name in known:
        return known[name]
    if ":" not in name:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"{name!r} is not one of {choices}, nor of the form package.module:NAME{nearest(name, known)}")
    try:
        found = plugins.load(name)
    except plugins.PluginError as error:
        raise ValueError(f"{name!r} {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{name!r} is a {type(found).__name__}, not a {kind.__module__}.{kind.__name__}")
    return found


def source_digest(name: str) -> str | None:
    """SHA-256 of the source of what ``package.module:NAME`` names; None for a name of this package's own."""
    source = plugins.source_of(name) if ":" in name else None
    return None if source is None else source.digest
