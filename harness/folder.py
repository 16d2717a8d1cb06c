"""What `--results` may be, told before anything else; light to import."""

from __future__ import annotations

from pathlib import Path

from harness.errors import StoreError


def check_readable(root: Path) -> None:
    """That `root` is a folder of results, or may become one. Touches nothing."""
    for path in (root, root / "runs"):
        try:
            next(path.iterdir(), None)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # a null byte is a ValueError
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise StoreError(f"{path}: is no folder of results: {reason}; name another with --results") from None
