"""Names of the measures in tables. "FID" and "KID" are Inception's alone; without torch, so that a report
loads fast."""

from __future__ import annotations

FEATURE_NAMES = {
    "digits": "digits",
    "inception": "Inception",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "dinov2": "DINOv2",
}


def _named(features: str) -> str:
    if features not in FEATURE_NAMES:
        raise KeyError(f"features {features!r} are none of {', '.join(FEATURE_NAMES)}")
    return FEATURE_NAMES[features]


def frechet_label(features: str, official: bool = True) -> str:
    """``FID`` for Inception's features with the official weights, else ``FD-<features>``."""
    return "FID" if features == "inception" and official else f"FD-{_named(features)}"


def kernel_label(features: str, official: bool = True) -> str:
    """``KID`` for Inception's features with the official weights, else ``KD-<features>``."""
    return "KID" if features == "inception" and official else f"KD-{_named(features)}"
