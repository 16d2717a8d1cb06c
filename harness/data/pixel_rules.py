"""The version of how pixels are made of encoded images, apart from them: an id needs it without numpy and Pillow."""

PIXEL_RULES = 1
"""Of what :mod:`harness.data.pixels` makes of an image. Part of every id: raise it when the pixels change."""
