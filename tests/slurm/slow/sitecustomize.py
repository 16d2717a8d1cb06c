"""Python reads this at start where its folder is on PYTHONPATH: slows jobs down so that a fault can hit them.

While the file named by SLOW_WHILE exists, each training step and each batch of images, drawn or measured, waits for the
seconds that are written in it. Nothing else of what a job does is changed, and once the file is gone it runs at full
speed.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

PATCHED = {
    "harness.engine.train": "optimise",
    "harness.engine.cell": "to_uint8",
    "models.denoising_error": "diffuse",
}


def dawdle():
    started = time.monotonic()
    while True:
        try:
            with open(os.environ["SLOW_WHILE"], encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not loaded yet
                seconds = float(file.read() or 0)
        except FileNotFoundError:
            return
        if time.monotonic() - started >= seconds:
            return
        time.sleep(0.05)


def slowed(function):
    def wrapper(*args, **kwargs):
        dawdle()
        return function(*args, **kwargs)

    return wrapper


class Finder(importlib.abc.MetaPathFinder):
    busy = False

    def find_spec(self, name, path, target=None):
        if name not in PATCHED or self.busy:
            return None
        self.busy = True
        spec = importlib.util.find_spec(name)
        self.busy = False
        assert spec is not None and spec.loader is not None, name
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            setattr(module, PATCHED[name], slowed(getattr(module, PATCHED[name])))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "SLOW_WHILE" in os.environ:
    sys.meta_path.insert(0, Finder())
