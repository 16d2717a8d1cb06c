"""Models of the Hugging Face hub by their names: from the hub's cache on this machine, else downloaded into it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = (".pkl", ".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""How names of files end, which are never taken for ids."""


class NotHad(ValueError):
    """A model that is neither in the cache nor can be downloaded."""


def is_hub_id(named: str | Path) -> bool:
    """Whether `named` can be ``owner/name`` on the hub: it looks so, and nothing lies there on this machine."""
    text = str(named)
    return bool(ID.fullmatch(text)) and not text.endswith(FILES) and not Path(text).exists()


def hub_folder(named: str | Path, files: tuple[str, ...], holds: str) -> Path:
    """The folder in the cache with those of `files`, paths, that the model `named` has: nothing else is downloaded, and
    nothing at all where a file there is called `holds`. Raises :class:`NotHad`, which says why and what to do."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise NotHad(f"models of the hub need the package huggingface_hub ({error})") from None
    folder, reason = _found(str(named), constants.HF_HUB_CACHE, files, holds)
    if folder is None:
        raise NotHad(
            f"no such folder, and as a model of the Hugging Face hub it is not in its cache {constants.HF_HUB_CACHE} "
            f"and cannot be downloaded ({reason.rstrip('.')}); with a network, once: hf download {named}"
        )
    return folder


@lru_cache(maxsize=64)  # what cannot be had is asked for once
def _found(named: str, cache: str, files: tuple[str, ...], holds: str) -> tuple[Path | None, str]:
    from huggingface_hub import snapshot_download

    reason = ""
    for offline in (True, False):
        try:
            folder = Path(
                snapshot_download(named, cache_dir=cache, allow_patterns=list(files), local_files_only=offline)
            )
        except Exception as error:  # whatever a network, a server and a cache can be wrong in
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        else:
            if not offline or any(folder.rglob(holds)):
                return folder, ""
    return None, reason
