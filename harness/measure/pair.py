"""torch and torchvision fit each other in pairs; the extractors and metrics need both."""

from __future__ import annotations

from importlib import metadata

from harness.errors import ConfigError
from harness.wording import reason

CURE = (
    "install both together, from one index: pip install --upgrade torch torchvision, for a CPU alone with "
    "--index-url https://download.pytorch.org/whl/cpu"
)


def check_torchvision() -> None:
    """Raise :class:`ConfigError` with both versions and the cure where torchvision cannot be imported beside torch."""
    try:
        import torchvision  # noqa: F401 - its compiled operators are registered with torch, or are not
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
            raise ConfigError("torchvision", [f"is not installed, and measuring needs it; {CURE}"]) from None
        versions = f"{_version('torchvision')} does not fit torch {_version('torch')}"
        raise ConfigError("torchvision", [f"{versions} ({reason(error)}); {CURE}"]) from error


def _version(package: str) -> str:
    """The version with its build, such as ``2.14.1+cpu``, as far as either is known."""
    try:
        if package == "torch":
            import torch

            return str(torch.__version__)
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
