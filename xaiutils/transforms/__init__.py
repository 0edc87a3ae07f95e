"""Changes of images under which maps are compared (`TRANSFORMS`), and attacks on a model."""

from xaiutils.transforms.image_changes import TRANSFORMS, Transform, signal_to_noise

__all__ = ["TRANSFORMS", "Transform", "signal_to_noise"]
