"""What a change of images is: a `Transform`, declared by the module that makes the change."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.images import check_images
from xaiutils.registry import Parameter, check_parameters


@dataclass(frozen=True)
class Transform:
    """A named change of an image. ``geometric`` ones move pixels, so masks and maps move with them.

    ``change(images, rng, **parameters)`` makes the change; with ``needs_model`` it takes ``model``, ``targets`` and
    ``batch_size`` too. ``back(maps, **parameters)`` undoes a geometric change, and ``replaces(images, rng,
    **parameters)`` marks what a local change paints over, bool ``(n, height, width)``.
    """

    name: str
    title: str
    help: str
    change: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    paper: str = ""
    geometric: bool = False
    back: Callable[..., np.ndarray] | None = None
    replaces: Callable[..., np.ndarray] | None = None
    needs_model: bool = False

    def apply(
        self,
        images: np.ndarray,
        seed: int = 0,
        model: Any = None,
        targets: int | Iterable[int] | None = None,
        batch_size: int = 32,
        **parameters: Any,
    ) -> np.ndarray:
        """Changed images, float32 ``(n, height, width, C)`` in [0, 255].

        ``model`` (a Keras classifier), ``targets`` (class indices, None for each image's predicted class) and
        ``batch_size`` matter where ``needs_model`` says so, and are ignored elsewhere. Raises TypeError or ValueError
        on unknown or bad ``parameters``, on images that are not such a batch, and on a missing model.
        """
        chosen = self._check(parameters)
        images = check_images(images)
        if self.needs_model:
            if model is None:
                raise ValueError(
                    f"transform {self.name!r} is made against a model; give it: "
                    f"TRANSFORMS[{self.name!r}].apply(images, model=...)."
                )
            from xaiutils.graph.network import Network  # imports TensorFlow, which the list of transforms does not

            chosen |= {"model": model, "targets": targets, "batch_size": batch_size}
            seen = check_images(images, channels=Network.of(model).channels)
            changed = np.clip(self.change(seen, np.random.default_rng(seed), **chosen), 0, 255).astype(np.float32)
            return np.repeat(changed, 3, axis=-1) if (changed.shape[-1], images.shape[-1]) == (1, 3) else changed
        changed = self.change(images, np.random.default_rng(seed), **chosen)
        return np.clip(changed, 0, 255).astype(np.float32)

    def apply_to_masks(self, masks: np.ndarray, **parameters: Any) -> np.ndarray:
        """Masks bool ``(n, height, width)`` moved as `apply` moves the images.

        Evidence that a rectangle covers stays marked: `hidden` says what is covered.
        """
        chosen = self._check(parameters)
        masks = _stack("masks", masks, bool)
        if not self.geometric:
            return masks
        moved = self.change(masks[..., None].astype(np.float32), np.random.default_rng(0), **chosen)
        return moved[..., 0] > 0.5

    def hidden(self, images: np.ndarray, seed: int = 0, **parameters: Any) -> np.ndarray:
        """Pixels of the changed images that show nothing of the original: the black rectangle, a warp's empty corners.

        Bool ``(n, height, width)``, for the ``images``, ``seed`` and ``parameters`` that `apply` was given.
        """
        chosen = self._check(parameters)
        images = check_images(images)
        if self.geometric:
            return ~self.apply_to_masks(np.ones(images.shape[:3], bool), **chosen)
        if self.replaces is None:
            return np.zeros(images.shape[:3], bool)
        return self.replaces(images, np.random.default_rng(seed), **chosen)

    def invert(self, maps: np.ndarray, **parameters: Any) -> np.ndarray:
        """Maps ``(n, height, width)`` of changed images in the frame of the originals, float32.

        Photometric changes leave maps where they are. What a geometric change pushed out of the picture is 0.
        """
        chosen = self._check(parameters)
        maps = _stack("maps", maps, np.float32)
        return maps if self.back is None else self.back(maps[..., None], **chosen)[..., 0].astype(np.float32)

    def _check(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return check_parameters(f"transform {self.name!r}", self.parameters, parameters)


def _stack(what: str, arrays: np.ndarray, dtype: type) -> np.ndarray:
    arrays = np.asarray(arrays, dtype)
    if arrays.ndim != 3:
        raise ValueError(f"{what} has shape {arrays.shape}; expected (n, height, width), one for each image.")
    return arrays
