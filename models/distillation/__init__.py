"""The ways to distil a trained network into a student of few steps: one module each, and one line here."""

from models.distillation.base import Distiller
from models.distillation.moment_matching import MOMENT_MATCHING
from models.distillation.regression import REGRESSION

DISTILLERS: dict[str, Distiller] = {one.name: one for one in (MOMENT_MATCHING, REGRESSION)}
"""By the name that ``distill.method`` has."""
