"""What a method is: its settings, its networks, its loss, and what else the rest of the project asks of it.

A method is one module with one class. The least that a person's own method needs is a network; everything else has a
default::

    class Settings(models.methods.Settings):
        channels: int = Field(32, ge=1, description="channels of the hidden layers")

    class Plain(Method):
        model_settings = Settings

        def build_network(self, config, images):
            return Net(images.channels, config.model.channels)  # an nn.Module: (z, log_snr) -> v

Declarations need no torch, which is imported inside the methods that use it, so that a configuration is checked, and a
finished sweep reported, without waiting for it. `models.methods.METHODS` has the project's own;
``model.kind: package.module:Class`` names any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.method import Model, RunNetwork
    from models.objective import LossSettings, Randomness
    from models.process import CosineSchedule

PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Keys of a section of the configuration: immutable, of strict types, without unknown keys.

    Each key is a field with its type, its range, its one default and a description. A check over several keys is a
    pydantic ``model_validator`` that raises ValueError with the key first: ``"depth: …"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    def check_size(self, size: int) -> None:
        """Of the section `model`: raise ValueError, which begins with the key, unless the networks take images of that
        side in pixels."""


@dataclass(frozen=True)
class ImageShape:
    """What a network is built for.

    Attributes:
        size: side of the images in pixels.
        channels: of the images.
        classes: number of classes for a class-conditional network, else None. Label `classes` is the
            null label.
    """

    size: int
    channels: int
    classes: int | None


@dataclass(frozen=True)
class StartNames:
    """How the tensors of the weights that a training starts from are called in its network.

    Attributes:
        renamed: name there → name in the network; what is not named keeps its name.
        unused: names there that the network has no place for.
        fresh: beginnings of the names in the network that begin at random.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    fresh: tuple[str, ...] = ()

    def places(self, start: Iterable[str]) -> dict[str, str]:
        """Of each tensor of the network that begins with one of `start`: its name there."""
        return {self.renamed.get(name, name): name for name in start if name not in self.unused}


class Configuration(Protocol):
    """What a method sees of an experiment: its sections, each with the common keys and the method's own."""

    @property
    def model(self) -> Any: ...
    @property
    def diffusion(self) -> Any: ...
    @property
    def train(self) -> Any: ...
    @property
    def sample(self) -> Any: ...


class Loss(Protocol):
    """What a training step runs."""

    def __call__(
        self, model: Any, x: Tensor, labels: Tensor | None, randomness: Randomness, *, run: RunNetwork
    ) -> Tensor:
        """The scalar loss of images x (B, C, H, W) in [−1, 1] with labels (B,) int64 or None.

        Every random number comes from `randomness`, so that a resumed training repeats an uninterrupted one, and every
        network is run through `run`, which compiles it.
        """


class Method:
    """A method. Overrides :meth:`build_network`, or :meth:`build`; the rest where the default does not fit."""

    kind: str = ""
    """Its name in ``model.kind``; set where it is registered or loaded."""
    model_settings: ClassVar[type[Settings]] = Settings
    """The keys of the section `model` that only it has, beside those that all methods have."""
    train_settings: ClassVar[type[Settings]] = Settings
    """The same of the section `train`."""
    sample_settings: ClassVar[type[Settings]] = Settings
    """The same of the section `sample`."""
    telling_keys: ClassVar[tuple[str, ...]] = ()
    """The keys of its section `model` that messages about a training show."""
    freezable: ClassVar[tuple[str, ...]] = ()
    """Networks that ``train.freeze`` may name: the parameters that :meth:`network_parameters` gives them stay as they
    start."""
    loss_keys: ClassVar[tuple[str, ...]] = ()
    """The keys of its section `train` that only its own loss reads; a distillation has another, and refuses them."""

    def check(self, config: Configuration) -> None:
        """Raise ValueError, with the dotted key first, where keys of several sections do not fit each other."""

    def check_images(self, config: Configuration, images: ImageShape) -> None:
        """Raise ValueError, with the dotted key first, where the configuration does not fit `images`, or a file that it
        names. Asked of every cell before anything is trained; :meth:`build` raises the same."""

    def build_network(self, config: Configuration, images: ImageShape) -> nn.Module:
        """A freshly initialised network ``network(z, log_snr[, labels])``.

        z is (B, C, H, W), log_snr (B,), labels (B,) int64 where ``images.classes`` is not None. It returns what
        ``diffusion.prediction`` names, v by default.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither build nor build_network")

    def build(self, config: Configuration, images: ImageShape) -> Model:
        """The method's networks as one module with the interface of :class:`models.method.Model`.

        By default :meth:`build_network`'s, run at every step.
        """
        from models.parameterization import parameterization_of
        from models.single_rate import OneNetwork

        network = self.build_network(config, images)
        return OneNetwork(network, parameterization_of(config.diffusion), images.classes)

    def start_names(self, config: Configuration, start: Collection[str]) -> StartNames:
        """Where the tensors called `start`, of the weights that a training starts from, belong in the network.

        By default every tensor of the network begins with the one of its name. Raises ValueError, with the dotted key
        first, for weights that the configuration cannot start from, whatever their shapes.
        """
        return StartNames()

    def start_parts(self, config: Configuration) -> Mapping[str, str]:
        """Of each network of its own that begins with a part of another's weights
        (:mod:`models.weight_selection`): the name of that other, which begins with those that a training starts from.
        """
        return {}

    def learning_rates(self, config: Configuration) -> Mapping[str, float]:
        """The learning rate of each network, by its name, that has another than ``train.learning_rate``."""
        return {}

    def sampled(self, model: Any, config: Configuration) -> Model:
        """What a sampler steps: the trained model itself, or something around it that needs no training."""
        chosen: Model = model
        return chosen

    def loss(self, config: Configuration, schedule: CosineSchedule) -> Loss:
        """What training minimises: by default the weighted error of x̂ at random times."""
        from functools import partial

        from models.objective import loss

        return partial(loss, settings=self.loss_settings(config, schedule))

    def loss_settings(self, config: Configuration, schedule: CosineSchedule) -> LossSettings:
        """Settings of the default loss."""
        from models.objective import LossSettings

        diffusion = config.diffusion
        return LossSettings(
            schedule=schedule,
            weighting="edm" if diffusion.preconditioning == "edm" else "sigmoid",
            bias=diffusion.loss_bias,
            sigma_data=diffusion.sigma_data,
            log_sigma_mean=diffusion.log_sigma_mean,
            log_sigma_std=diffusion.log_sigma_std,
            label_dropout=config.train.label_dropout,
        )

    def draws_by_noise_schedule(self, config: Configuration) -> bool:
        """Whether its loss draws noise levels by the noise schedule that is trained beside its model, as
        ``train.noise_schedule`` asks (:func:`models.noise_schedule.noise_schedule_of`): the default loss does."""
        return type(self).loss is Method.loss

    def start_table(self, config: Configuration) -> str | None:
        """The table, of `models.tables.TABLES`, that a training needs of the network that it starts from.

        Asked of a training that has a ``train.start``; the answer depends on the sections `model`, `diffusion` and
        `train` alone.
        """
        return None

    def load_table(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put that table into the `model` that :meth:`build` has made, once the weights to start from are in it.

        It must go into buffers that are saved with the weights: a training that goes on, and a cell, have nothing else
        of it.
        """

    def runs_per_iteration(self, config: Configuration) -> Mapping[str, int]:
        """How often one training iteration runs each network, by its name; once where it is not named here."""
        return {}

    def forward_runs_per_iteration(self, config: Configuration) -> Mapping[str, int]:
        """How often it runs a network beyond that without a gradient, to make a target."""
        return {}

    def recomputes_activations(self, config: Configuration) -> bool:
        """Whether the backward pass runs the forward pass again, which costs a third more."""
        return False

    def may_leave_parameters_unused(self, config: Configuration) -> bool:
        """Whether a training step may leave a parameter without a gradient, for which several GPUs must look out."""
        return True

    def needs_refreshes(self, config: Configuration) -> bool:
        """Whether a sampling configuration must say at which steps what is kept between steps is refreshed."""
        return False

    def clips(self, config: Configuration) -> bool:
        """Whether x̂ is clipped to the range of the data where the configuration does not say."""
        return bool(config.diffusion.preconditioning != "edm")

    def network_parameters(self, model: Any) -> Mapping[str, Iterable[nn.Parameter]]:
        """Which parameters belong to which of ``model.networks``.

        By default those of the submodule of that name; what is left over belongs to the last network, and everything
        to a single one.
        """
        *others, last = model.networks
        children = dict(model.named_children())
        owned = {name: list(children[name].parameters()) for name in others if name in children}
        taken = {id(parameter) for parameters in owned.values() for parameter in parameters}
        return {**owned, last: [parameter for parameter in model.parameters() if id(parameter) not in taken]}
