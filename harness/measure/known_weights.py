"""The weights that an extractor has where a configuration names none; without torch, so that ids are told fast."""

from __future__ import annotations

KNOWN_WEIGHTS: dict[str, str] = {
    "digits": "50df130e7ed6e740da514bce830babfcab63e5bb7760431a779d069bef49afb1",
    "inception": "6726825d",
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}
"""How the SHA-256 of each file begins. Part of every cell's id; a file that is another is refused when it is loaded.
Of DINOv2's, which torch.hub gets, none is known."""


def weights_identity(features: str, digest: str | None) -> str | None:
    """What identifies an extractor's weights: the known ones alike, whether a path to them is given or not.

    `digest` is the SHA-256 of the file that a configuration names, None where it names none.
    """
    known = KNOWN_WEIGHTS.get(features)
    if digest is None or (known is not None and digest.startswith(known)):
        return known
    return digest
