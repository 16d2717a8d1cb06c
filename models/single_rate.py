"""One network at every step: the project's own U-ViT, or any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.method import RunNetwork, State, run_network
from models.parameterization import Parameterization, Prediction
from models.uvit import Conditioning


class SingleRate(nn.Module):
    """One network at every step: the base, the shrunk network and, with EDM's
    preconditioning, EDM's."""

    networks = ("network",)
    network: Any
    """A :class:`models.backbone.Backbone`, of a class that only who built it knows."""

    def __init__(self, network: Backbone, parameterization: Parameterization | None = None) -> None:
        super().__init__()
        self.network = network
        self.parameterization = parameterization or Prediction()
        self.classes = network.config.classes

    def estimate(self, z: Tensor, log_snr: Tensor, conditioning: Conditioning) -> Tensor:
        """x̂ for z (B, C, H, W) at log-SNR (), (1,) or (B,). The class comes with the conditioning."""
        output = self.network(self.parameterization.input(z, log_snr), log_snr, conditioning)
        return self.parameterization.estimate(output.image, z, log_snr)

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂ for z (B, C, H, W) at log-SNR (), (1,) or (B,) and labels (B,) int64.

        The state is what depends on the labels alone.
        """
        conditioning = Conditioning(*state) if state else self.network.condition(labels)
        return run("network", self.estimate, z, log_snr, conditioning), conditioning


class OneNetwork(nn.Module):
    """Any module ``network(z, log_snr[, labels])`` as a method that runs it at every step.

    The module gets one log-SNR per image, and labels where `classes` is not None.
    """

    networks = ("network",)

    def __init__(self, network: nn.Module, parameterization: Parameterization, classes: int | None) -> None:
        super().__init__()
        self.network, self.parameterization, self.classes = network, parameterization, classes

    def estimate(self, z: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        """x̂ for z (B, C, H, W) at log-SNR (), (1,) or (B,)."""
        log_snr = log_snr.expand(len(z))
        seen = self.parameterization.input(z, log_snr)
        output = self.network(seen, log_snr) if self.classes is None else self.network(seen, log_snr, labels)
        return self.parameterization.estimate(output, z, log_snr)

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """x̂; nothing is kept from one step to the next."""
        if self.classes is not None and labels is None:
            labels = torch.full((len(z),), self.classes, device=z.device)  # the null label
        return run("network", self.estimate, z, log_snr, labels), ()
