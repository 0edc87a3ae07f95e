"""State dicts of Vision Transformers, named as in timm, Meta's code or Hugging Face's Transformers, for `vit`'s models.

- timm's ViT and DeiT (Touvron et al. 2021, arXiv:2012.12877), and Meta's DINOv2 (Oquab et al. 2023, arXiv:2304.07193),
  with registers (Darcet et al. 2024, arXiv:2309.16588) or without: ``blocks.0.attn.qkv.weight``. Registers are
  ``reg_token``, or Meta's ``register_tokens``; timm has added the class token's position to the token.
- Hugging Face's ``Dinov2Model`` and ``Dinov2WithRegistersModel``, and so RAD-DINO (Perez-Garcia et al. 2025,
  doi:10.1038/s42256-024-00965-w): ``encoder.layer.0.attention.attention.query.weight``.
- DINOv3 (Simeoni et al. 2025, arXiv:2508.10104) of all three; its keys have no bias (Meta's file masks one).

Read are ``.safetensors``, ``.pth`` and ``.npz`` (``np.savez(path, **{name: value.numpy() for name, value in
model.state_dict().items()})``; its Dense kernels may be transposed, ``<layer>.kernel`` (in, out), too).

A position table of another size is enlarged as the file's own library does it, bicubically: timm's and those with
registers with antialiasing; Meta's DINOv2 adds 0.1 to the new grid's size, Hugging Face's does not, which moves the
samples by less than a tenth of a patch.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.npz_checkpoint import assign, check_arrays, read_npz, resized_positions, side_of
from xaiutils.models.torch_checkpoint import read_state_dict
from xaiutils.models.vit import ViTConfig, periods

_HINT = "Give the file of the same model, with the names of timm, of Meta's code or of Hugging Face's Transformers."
_POSITIONS = "positions/positions"
_IGNORED = re.compile(  # of the training without labels, buffers of constants, and heads that are not asked for
    r"(embeddings\.)?mask_token|head(_dist)?\.(weight|bias)|rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask"
)


@dataclass(frozen=True)
class Naming:
    """How a library names what `vit`'s models have: our layer or variable ("positions/positions"): its module or array.
    ``block`` is what names of blocks begin with, ``layers`` are outside of blocks, ``inside`` within."""

    block: str
    layers: Mapping[str, str]
    inside: Mapping[str, str]


_TIMM = Naming(
    "blocks.{}",
    {
        "patches": "patch_embed.proj",
        "class_token/token": "cls_token",
        "distillation_token/token": "dist_token",
        "registers/tokens": "reg_token",
        _POSITIONS: "pos_embed",
        "norm": "norm",
    },
    {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention/query key value": "attn.qkv",
        "attention/out": "attn.proj",
        "scale1/factors": "ls1.gamma",
        "scale2/factors": "ls2.gamma",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    },
)
_DINOV2 = Naming(
    "encoder.layer.{}",
    {
        "patches": "embeddings.patch_embeddings.projection",
        "class_token/token": "embeddings.cls_token",
        "registers/tokens": "embeddings.register_tokens",
        _POSITIONS: "embeddings.position_embeddings",
        "norm": "layernorm",
    },
    {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention/query": "attention.attention.query",
        "attention/key": "attention.attention.key",
        "attention/value": "attention.attention.value",
        "attention/out": "attention.output.dense",
        "scale1/factors": "layer_scale1.lambda1",
        "scale2/factors": "layer_scale2.lambda1",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    },
)
_DINOV3 = Naming(
    "layer.{}",
    {**_DINOV2.layers, "patches": "embeddings.patch_embeddings", "norm": "norm"},
    {
        **_DINOV2.inside,
        "attention/query": "attention.q_proj",
        "attention/key": "attention.k_proj",
        "attention/value": "attention.v_proj",
        "attention/out": "attention.o_proj",
        "mlp_in": "mlp.up_proj",
        "mlp_out": "mlp.down_proj",
    },
)
Expected = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]


def load_vit(model: keras.Model, config: ViTConfig, path: str | Path, with_head: bool = False) -> None:
    """Copy a state dict into ``model``; its classes too where ``model`` has a linear head of as many, and must be there
    if ``with_head``.

    Raises ValueError for a damaged file or weights of another network; the message names what differs.
    """
    arrays = _read(Path(path))
    naming = naming_of(arrays)
    if config.rotary:
        arrays = _with_biases(arrays, config)
        _check_periods(arrays, config, path)
    name = naming.layers[_POSITIONS]
    table, prefix = arrays.get(name, np.zeros((1, 1, 0))), 1 + config.distilled
    without = table.ndim == 3 and math.isqrt(table.shape[1]) ** 2 == table.shape[1] > 1  # rows of patches alone
    rows = table.shape[1] if without else prefix + side_of(table, prefix) ** 2
    expected = layout(config, naming, rows)
    heads = _heads(model, config, arrays, with_head, path)
    shapes = {theirs: shape for theirs, (_, shape) in expected.items()} | heads
    optional = [theirs for theirs in arrays if _IGNORED.fullmatch(theirs)]
    check_arrays(arrays, shapes, f"the weights in {path} and {model.name}", optional, _HINT)
    values = {}
    for theirs, (ours, _) in expected.items():
        for variable, part in zip(ours, np.split(arrays[theirs], len(ours)), strict=True):
            if variable:
                values[variable] = part.transpose(2, 3, 1, 0) if part.ndim == 4 else part.T if part.ndim == 2 else part
    if not config.rotary:
        whole = np.concatenate([np.zeros_like(table[:, :prefix]), table], axis=1) if without else table
        grid = model.input_shape[1] // config.patch_size
        values[_POSITIONS] = resize_positions(whole, grid, prefix, *_way_to_resize(arrays, config, naming))
    if heads:  # of two heads the mean
        kernels, biases = ([arrays[n] for n in heads if n.endswith(end)] for end in (".weight", ".bias"))
        values["logits/kernel"] = np.concatenate([kernel.T for kernel in kernels]) / len(kernels)
        values["logits/bias"] = np.mean(biases, axis=0)
    assign(model, values)


def naming_of(arrays: Mapping[str, np.ndarray]) -> Naming:
    """Whose names a file has; timm's where they are nobody's."""
    if "embeddings.patch_embeddings.projection.weight" in arrays:
        return _DINOV2
    if "embeddings.patch_embeddings.weight" in arrays:
        return _DINOV3
    registers = next((name for name in ("register_tokens", "storage_tokens") if name in arrays), "reg_token")
    scales = {f"scale{n}/factors": f"gamma_{n}" for n in (1, 2)} if "blocks.0.gamma_1" in arrays else {}
    return Naming(_TIMM.block, {**_TIMM.layers, "registers/tokens": registers}, {**_TIMM.inside, **scales})


def layout(config: ViTConfig, naming: Naming, rows: int) -> Expected:
    """What a file of a backbone holds, with a position table of so many rows: array's name: (paths of the model's
    variables, one beside the other on its first axis, "" for one that the model has not; shape in the file)."""
    width, p, hidden = config.width, config.patch_size, config.width * config.mlp_ratio
    shapes: dict[str, tuple[int, ...]] = {"patches": (width, 3, p, p), "mlp_in": (hidden, width)}
    shapes["mlp_out"] = width, hidden
    whole: dict[str, tuple[int, ...]] = {"registers/tokens": (1, config.registers, width), _POSITIONS: (1, rows, width)}
    absent = {"registers": not config.registers, "distillation_token": not config.distilled}
    absent |= {"positions": bool(config.rotary), "scale1": not config.layer_scale, "scale2": not config.layer_scale}
    found: Expected = {}

    def add(ours: str, theirs: str, block: str = "") -> None:
        layer, _, variables = ours.partition("/")
        if absent.get(layer):
            return
        if layer != "attention" and variables:
            found[theirs] = (f"{block}{ours}",), whole.get(ours, (width,) if block else (1, 1, width))
            return
        of = [f"{block}{layer}/{part}" if part else f"{block}{layer}" for part in variables.split(" ")]
        normal = layer.startswith("norm")
        for kind, name in (("weight", "gamma" if normal else "kernel"), ("bias", "beta" if normal else "bias")):
            no_bias = [bool(config.rotary) and kind == "bias" and path.endswith("/key") for path in of]
            if all(no_bias):
                continue
            one: tuple[int, ...] = (width,) if normal else shapes.get(layer, (width, width))
            shape = (len(of) * one[0], *(one[1:] if kind == "weight" else ()))
            paths = tuple("" if no else f"{path}/{name}" for path, no in zip(of, no_bias, strict=True))
            found[f"{theirs}.{kind}"] = paths, shape

    for ours, theirs in naming.layers.items():
        add(ours, theirs)
    for i in range(config.depth):
        for ours, theirs in naming.inside.items():
            add(ours, f"{naming.block.format(i)}.{theirs}", f"block_{i:02d}_")
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file as PyTorch has them, Dense kernels (out, in)."""
    if path.suffix != ".npz":
        arrays = read_state_dict(path)
        if "model.layer.0.norm1.weight" in arrays:  # of Transformers 5
            arrays = {name.removeprefix("model."): value for name, value in arrays.items()}
        return arrays
    found = {}
    for name, value in read_npz(path).items():
        if name.endswith(".kernel") and value.ndim == 2:
            name, value = name.removesuffix(".kernel") + ".weight", value.T
        found[re.sub(r"(position_embeddings)_\d+x\d+$", r"\1", name)] = value  # a table kept for one grid
    return found


def _with_biases(arrays: dict[str, np.ndarray], config: ViTConfig) -> dict[str, np.ndarray]:
    """With DINOv3's ``qkv.bias``, of which timm keeps the queries' and the values' part, or none where both are 0."""
    found = dict(arrays)
    zeros = np.zeros(config.width, np.float32)
    for i in range(config.depth):
        attention = f"blocks.{i}.attn"
        if f"{attention}.qkv.weight" in arrays and f"{attention}.qkv.bias" not in arrays:
            query, value = (np.ravel(found.pop(f"{attention}.{part}_bias", zeros)) for part in "qv")
            found[f"{attention}.qkv.bias"] = np.concatenate([query, zeros, value])
    return found


def _check_periods(arrays: Mapping[str, np.ndarray], config: ViTConfig, path: str | Path) -> None:
    """ValueError where a file states other periods of rotary positions than ours (rounded to bfloat16 it may be)."""
    stated, own = arrays.get("rope_embed.periods"), periods(config.width // config.heads, config.rotary)
    if stated is not None and (stated.shape != own.shape or not np.allclose(stated, own, rtol=2**-7)):
        raise ValueError(
            f"{path} has rotary positions (rope_embed.periods) of another base than {config.rotary:g}, or of other "
            f"heads than {config.heads}: it is of another model."
        )


def _heads(
    model: keras.Model, config: ViTConfig, arrays: Mapping[str, np.ndarray], with_head: bool, path: str | Path
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the classes' arrays, where they are to be copied."""
    logits, features = model.get_layer("logits"), model.get_layer("features")
    if with_head and "head.weight" not in arrays:
        raise ValueError(f"{path} has no head for ImageNet's classes; use head='linear' or 'thesis' and train it.")
    units = logits.units if hasattr(logits, "units") else 0
    alike = logits.input is features.output and arrays.get("head.weight", np.zeros(0)).shape == (units, config.width)
    if not with_head and not alike:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for name in ("head", "head_dist")[: 1 + config.distilled]:
        found[f"{name}.weight"], found[f"{name}.bias"] = (units, config.width), (units,)
    return found


def _way_to_resize(arrays: Mapping[str, np.ndarray], config: ViTConfig, naming: Naming) -> tuple[bool, float]:
    """Whether to antialias, and what to add to the new grid's size: see this module."""
    is_metas = naming.block == _TIMM.block and ("mask_token" in arrays or "register_tokens" in arrays)
    antialias = bool(config.registers) or (naming.block == _TIMM.block and not is_metas)
    return antialias, 0.1 if is_metas and not config.registers else 0.0


def resize_positions(
    table: np.ndarray, grid: int, prefix: int = 1, antialias: bool = False, offset: float = 0.0
) -> np.ndarray:
    """A position table ``(1, prefix + n * n, width)`` for ``grid * grid`` patches; the first ``prefix`` rows are kept.

    Bicubic between pixel centres, as PyTorch's ``interpolate`` does it, whose kernel with ``antialias`` is another.
    ``offset``: the grid is sampled as if it were larger by so much.
    """

    def enlarge(patches: np.ndarray, new: int) -> np.ndarray:
        matrix = cubic_matrix(len(patches), new, antialias, offset)
        return np.einsum("ai,bj,ijc->abc", matrix, matrix, patches, optimize=True)

    return resized_positions(table, grid, enlarge, prefix)


def cubic_matrix(old: int, new: int, antialias: bool = False, offset: float = 0.0) -> np.ndarray:
    """Weights ``(new, old)`` of cubic convolution (Keys 1981) with a = -0.75, the edge repeated outwards. With
    ``antialias`` a = -0.5, the kernel is as wide as a new sample, and what lies outside is left out."""
    step = old / (new + offset)
    centres, a = (np.arange(new) + 0.5) * step - 0.5, -0.5 if antialias else -0.75
    stretch = max(step, 1.0) if antialias else 1.0
    reach = math.ceil(2 * stretch) + 1
    matrix = np.zeros((new, old))
    for k in range(-reach, reach + 1):
        at = np.floor(centres).astype(int) + k
        d = np.abs(at - centres) / stretch
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        weights = np.where((at >= 0) & (at < old), weights, 0.0) if antialias else weights
        np.add.at(matrix, (np.arange(new), np.clip(at, 0, old - 1)), weights)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
