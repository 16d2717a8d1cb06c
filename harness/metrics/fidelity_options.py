"""Options of torch-fidelity, which ignores a misspelt one in silence."""

from __future__ import annotations

from typing import Any


def checked(**options: Any) -> dict[str, Any]:
    """`options`, each of which torch-fidelity knows. Raises TypeError for one that it does not."""
    from torch_fidelity.defaults import DEFAULTS

    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise TypeError(f"torch-fidelity has no option {', '.join(sorted(unknown))}")
    return {"verbose": False, **options}
