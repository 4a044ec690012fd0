"""Random solids to train on, where there are too few meshes: objects of many kinds, each made by set operations."""

from models.data.solids.generator import Solid, random_solid

__all__ = ["Solid", "random_solid"]
