"""Checks of `--results`, made before anything else; light to import."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError, StoreError


def check_results_folder(root: Path) -> None:
    """Raise :class:`ConfigError` unless `root` is a folder of results, or can become one. Touches nothing."""
    for place in (root, *root.parents):
        if place.is_dir():
            break
        if place.exists():
            raise ConfigError(
                "--results", [f"{place} is a file; a folder is needed, which is made where there is none"]
            )
    for path in (root, root / "runs"):
        try:
            next(path.iterdir(), None)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # a null byte is a ValueError
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise StoreError(f"{path}: is no folder of results: {reason}; name another with --results") from None
