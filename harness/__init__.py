"""Benchmarking and ablation harness for Dual-Rate Diffusion.

From Python, see :mod:`harness.api`: ``load_sweep`` gives a study with ``run``, ``report`` (a DataFrame), ``sample`` and
``measure``. (These are no functions of this package, since :mod:`harness.report` and :mod:`harness.measure` are parts
of it.)
"""

from __future__ import annotations

import os
import sys
from typing import Any

OWN_MODELS = "models"
"""The project's other package, beside this one. Its name is so common that working directories often have one too."""


def _leave_out_the_working_directory() -> None:
    """Undo `python -m harness.…` putting the working directory ahead of all installed packages.

    Left as it is where the harness itself was found that way, and in any other program that imports the harness.
    """
    is_program = sys.argv[:1] == ["-m"] and not sys.flags.safe_path
    if is_program and sys.path[0] in ("", os.getcwd()) and not __file__.startswith(os.getcwd() + os.sep):  # noqa: PTH109
        del sys.path[0]


def _use_own_models() -> None:
    """Import the `models` beside this package, whatever lies first on Python's path."""
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    file = Path(__file__).resolve().parent.parent / OWN_MODELS / "__init__.py"
    loaded = sys.modules.get(OWN_MODELS)
    if loaded is not None and Path(loaded.__file__ or "").resolve() == file:
        return
    if loaded is not None:
        raise ImportError(
            f"{loaded.__file__ or loaded}: another `{OWN_MODELS}` has been imported here; import harness first, "
            "or in another process"
        )
    spec = spec_from_file_location(OWN_MODELS, file, submodule_search_locations=[str(file.parent)])
    if spec is None or spec.loader is None or not file.exists():
        raise ImportError(f"{file} is missing: install the harness again")
    module = module_from_spec(spec)
    sys.modules[OWN_MODELS] = module
    spec.loader.exec_module(module)


_leave_out_the_working_directory()
_use_own_models()


DISTRIBUTION = "dual-rate-harness"
API = ("HarnessError", "RunFailed", "Study", "load_report", "load_sweep")
"""What :mod:`harness.api` gives. ``__init__.pyi`` tells type checkers the same."""


def __getattr__(name: str) -> Any:
    """The API and the version, made when they are asked for: the command line needs neither."""
    if name == "__version__":
        return _version()
    if name in API:
        from importlib import import_module

        return getattr(import_module("harness.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *API, "__version__"})


def _version() -> str:
    """Of the installed package; ``unknown`` where its source is imported without being installed."""
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
