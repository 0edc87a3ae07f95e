"""DINOv2 weights (Oquab et al. 2023, arXiv:2304.07193): ``.npz`` with the names of Hugging Face's ``Dinov2Model``.

Such a file is ``np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})``. Dense kernels
are read as PyTorch stores them, ``<layer>.weight`` (out, in), or transposed, ``<layer>.kernel`` (in, out); the patch
projection is always (out, in, height, width). Any float type will do.

The head of `build_model` starts from the class token after the last LayerNorm. (DINOv2's own linear probe has the mean
of the patch tokens beside it; the class token alone keeps the model alike to the other Vision Transformers.)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.npz_checkpoint import assign, check_arrays, read_npz, resized_positions, side_of
from xaiutils.models.vit import ViTConfig

_POSITIONS = "embeddings.position_embeddings"
_OPTIONAL = ("embeddings.mask_token",)  # of the training without labels


def load_dinov2(model: keras.Model, config: ViTConfig, path: str | Path, with_head: bool = False) -> None:
    """Copy a DINOv2 backbone into ``model``, its position table interpolated to the model's grid.

    Raises ValueError for a damaged file, another architecture, or ``with_head``: there are no classes in the file.
    """
    if with_head:
        raise ValueError(
            f"{model.name} has no head for ImageNet's classes; use head='linear' or 'thesis' and train it."
        )
    arrays = _in_out(read_npz(path))
    table = arrays.get(_POSITIONS, np.zeros((1, 1, 0)))
    expected = layout(config, 1 + side_of(table) ** 2)
    hint = "Give the backbone of the same DINOv2 model (small, without registers) with the names of Dinov2Model."
    shapes = {name: shape for name, (_, shape) in expected.items()}
    check_arrays(arrays, shapes, f"the weights in {path} and {model.name}", _OPTIONAL, hint)
    values = {path: arrays[name] for name, (path, _) in expected.items()}
    values["patches/kernel"] = values["patches/kernel"].transpose(2, 3, 1, 0)
    values["positions/positions"] = resize_positions(table, model.input_shape[1] // config.patch_size)
    assign(model, values)


def layout(config: ViTConfig, tokens: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What the file holds, kernels as (in, out): array's name: (path of the model's variable, shape)."""
    width, p, hidden = config.width, config.patch_size, config.width * config.mlp_ratio
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embeddings.patch_embeddings.projection.weight": ("patches/kernel", (width, 3, p, p)),
        "embeddings.patch_embeddings.projection.bias": ("patches/bias", (width,)),
        "embeddings.cls_token": ("class_token/token", (1, 1, width)),
        _POSITIONS: ("positions/positions", (1, tokens, width)),
        "layernorm.weight": ("norm/gamma", (width,)),
        "layernorm.bias": ("norm/beta", (width,)),
    }
    dense = {
        "attention.attention.query": ("attention/query", width, width),
        "attention.attention.key": ("attention/key", width, width),
        "attention.attention.value": ("attention/value", width, width),
        "attention.output.dense": ("attention/out", width, width),
        "mlp.fc1": ("mlp_in", width, hidden),
        "mlp.fc2": ("mlp_out", hidden, width),
    }
    for i in range(config.depth):
        theirs, ours = f"encoder.layer.{i}", f"block_{i:02d}"
        for number in (1, 2):
            found[f"{theirs}.norm{number}.weight"] = f"{ours}_norm{number}/gamma", (width,)
            found[f"{theirs}.norm{number}.bias"] = f"{ours}_norm{number}/beta", (width,)
            found[f"{theirs}.layer_scale{number}.lambda1"] = f"{ours}_scale{number}/factors", (width,)
        for name, (path, n_in, n_out) in dense.items():
            found[f"{theirs}.{name}.kernel"] = f"{ours}_{path}/kernel", (n_in, n_out)
            found[f"{theirs}.{name}.bias"] = f"{ours}_{path}/bias", (n_out,)
    return found


def _in_out(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with Dense kernels as (in, out), and the position table under one name whatever its grid."""
    found = {}
    for name, value in arrays.items():
        if name.startswith(f"{_POSITIONS}_"):  # "..._16x16", a table kept for one grid
            name = _POSITIONS
        elif value.ndim == 2 and name.endswith(".weight"):
            name, value = name.removesuffix(".weight") + ".kernel", value.T
        found[name] = value
    return found


def resize_positions(table: np.ndarray, grid: int) -> np.ndarray:
    """A position table ``(1, 1 + n * n, width)`` for ``grid * grid`` patches; the class token's row is kept.

    Bicubic between pixel centres, as PyTorch's ``interpolate`` does it without antialiasing. (DINOv2's first code adds
    0.1 to the new grid's size there, which moves the samples by less than a tenth of a patch.)
    """

    def enlarge(patches: np.ndarray, new: int) -> np.ndarray:
        matrix = _cubic_matrix(len(patches), new)
        return np.einsum("ai,bj,ijc->abc", matrix, matrix, patches, optimize=True)

    return resized_positions(table, grid, enlarge)


def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """Weights ``(new, old)`` of cubic convolution (Keys 1981) with a = -0.75; the edge is repeated outwards."""
    a = -0.75
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    matrix = np.zeros((new, old), np.float32)
    for k in range(4):
        d = np.abs(centres - (first + k))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + k, 0, old - 1)), np.where(d <= 1, near, far))
    return matrix
