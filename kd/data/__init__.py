"""Data sets (one file each), the augmentation that turns an image into a crop, and the loader that orders them."""

from kd.data.dataset import Dataset

__all__ = ["Dataset"]
