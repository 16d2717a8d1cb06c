"""The version of the rules by which images are decoded; a module of its own, so that ids need no numpy or Pillow."""

PIXEL_RULES = 1
"""Version of the pixels that :mod:`harness.data.pixels` decodes. Part of every id: raise it when the pixels change."""
