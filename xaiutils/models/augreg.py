"""Google's Vision Transformer checkpoints (``.npz``): their layout, position tables of other sizes, the download.

The layout is that of google-research/vision_transformer: "AugReg" (Steiner et al. 2021, How to train your ViT?,
arXiv:2106.10270) and the older files of Dosovitskiy et al. 2021 are alike, except that those before fine-tuning may
hold a layer ``pre_logits`` too. As in Google's own fine-tuning code it is dropped, and so is a head that is not asked
for.
"""

import base64
import hashlib
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from xaiutils.backend import keras
from xaiutils.datasets.reading.cache import cache_folder
from xaiutils.datasets.reading.download import Remote, fetch
from xaiutils.files import replace_file
from xaiutils.models.npz_checkpoint import assign, check_arrays, read_npz, resized_positions, side_of
from xaiutils.models.vit import CONFIGS, ViTConfig

_URL = "https://storage.googleapis.com/vit_models/augreg/{name}.npz"
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_DROPPED = ("pre_logits/kernel", "pre_logits/bias")
_HEAD = ("head/kernel", "head/bias")

# ImageNet-21k, 300 epochs, then ImageNet-1k at 224 and at 384 pixels: the files that timm, too, has chosen.
_I21K = {
    "vit_ti16": ("Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0",) * 2,
    "vit_s16": ("S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0",) * 2,
    "vit_s32": ("S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0",) * 2,
    "vit_b16": ("B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0",) * 2,
    "vit_b32": (
        "B_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.03-do_0.0-sd_0.0",
        "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0",
    ),
    "vit_l16": ("L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1",) * 2,
}
_FINE_TUNING_RATE = {"vit_b16": "0.01", "vit_l16": "0.01"}  # 0.03 for the others
CHECKPOINTS = {
    (model, size): f"{stem}--imagenet2012-steps_20k-lr_{_FINE_TUNING_RATE.get(model, '0.03')}-res_{size}"
    for model, stems in _I21K.items()
    for size, stem in zip((224, 384), stems, strict=True)
}


def layout(config: ViTConfig, tokens: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a checkpoint of a model with this many tokens holds beside its head.

    Returns:
        Array's name in the file: (path of the model's variable, shape in the file).
    """
    width, heads, p = config.width, config.heads, config.patch_size
    split, hidden = (heads, width // heads), width * config.mlp_ratio
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embedding/kernel": ("patches/kernel", (p, p, 3, width)),
        "embedding/bias": ("patches/bias", (width,)),
        "cls": ("class_token/token", (1, 1, width)),
        _POSITIONS: ("positions/positions", (1, tokens, width)),
        "Transformer/encoder_norm/scale": ("norm/gamma", (width,)),
        "Transformer/encoder_norm/bias": ("norm/beta", (width,)),
    }
    for i in range(config.depth):
        theirs, ours = f"Transformer/encoderblock_{i}", f"block_{i:02d}"
        for norm, name in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            found[f"{theirs}/{norm}/scale"] = f"{ours}_{name}/gamma", (width,)
            found[f"{theirs}/{norm}/bias"] = f"{ours}_{name}/beta", (width,)
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            found[f"{attention}/{part}/kernel"] = f"{ours}_attention/{part}/kernel", (width, *split)
            found[f"{attention}/{part}/bias"] = f"{ours}_attention/{part}/bias", split
        found[f"{attention}/out/kernel"] = f"{ours}_attention/out/kernel", (*split, width)
        found[f"{attention}/out/bias"] = f"{ours}_attention/out/bias", (width,)
        for dense, name, n_in, n_out in (("Dense_0", "mlp_in", width, hidden), ("Dense_1", "mlp_out", hidden, width)):
            found[f"{theirs}/MlpBlock_3/{dense}/kernel"] = f"{ours}_{name}/kernel", (n_in, n_out)
            found[f"{theirs}/MlpBlock_3/{dense}/bias"] = f"{ours}_{name}/bias", (n_out,)
    return found


def load_augreg(model: keras.Model, config: ViTConfig, path: str | Path, with_head: bool) -> None:
    """Copy a checkpoint into ``model``, its position table interpolated to the model's grid.

    Args:
        with_head: copy the 1000 classes too.

    Raises:
        ValueError: the file is damaged, or of another architecture; the message names what differs.
    """
    arrays = read_npz(path)
    table = arrays.get(_POSITIONS, np.zeros((1, 1, 0)))
    expected = layout(config, 1 + side_of(table) ** 2)
    shapes = {name: shape for name, (_, shape) in expected.items()}
    if with_head:
        shapes |= {"head/kernel": (config.width, 1000), "head/bias": (1000,)}
    check_arrays(arrays, shapes, f"the weights in {path} and {model.name}", (*_HEAD, *_DROPPED), _hint(arrays))
    grid = model.input_shape[1] // config.patch_size
    values = {path: arrays[name] for name, (path, _) in expected.items()}
    values["positions/positions"] = resize_positions(table, grid)
    if with_head:
        values |= {"logits/kernel": arrays["head/kernel"], "logits/bias": arrays["head/bias"]}
    assign(model, values)


def _hint(arrays: Mapping[str, np.ndarray]) -> str:
    """Which model the arrays are of, or what to do where it is unknown."""
    kernel = arrays.get("embedding/kernel", np.zeros(0))
    blocks = {name.split("/")[1] for name in arrays if name.startswith("Transformer/encoderblock_")}
    for name, config in CONFIGS.items():
        is_it = (config.patch_size, config.patch_size, 3, config.width) == kernel.shape and config.depth == len(blocks)
        if is_it and config.gelu == "tanh":
            classes = arrays["head/bias"].shape[0] if "head/bias" in arrays else "no"
            return f"The file is of {name}, with {classes} classes (head='imagenet' needs 1000)."
    return "Give a checkpoint in the layout of google-research/vision_transformer, of the same model."


def resize_positions(table: np.ndarray, grid: int) -> np.ndarray:
    """A position table ``(1, 1 + n * n, width)`` for ``grid * grid`` patches; the class token's row is kept.

    Bilinear with the corners of the two grids on each other (SciPy's ``zoom`` of order 1), as in Google's own loader.
    Others, such as timm, interpolate bicubically between pixel centres; the difference lies mostly in the outer rows.
    """
    return resized_positions(table, grid, lambda x, n: ndimage.zoom(x, (n / len(x), n / len(x), 1), order=1))


def download(name: str, image_size: int) -> Path:
    """Path of the ImageNet checkpoint of model ``name``, downloaded at the first use.

    Files fine-tuned at 224 pixels serve images up to 304, those at 384 the larger ones. They are kept in the cache
    folder (``XAI_CACHE`` or the user's), under ``weights``.

    Google publishes no list of checksums. The first download is checked against the MD5 that the storage server gives
    with the file (which finds a damaged transfer, and trusts the server), and by `load_augreg` against the names and
    shapes of the model. The file's SHA-256 is then written beside it, and every later start checks that.

    Raises:
        OSError: no connection, or a file that does not match its checksum.
    """
    stem = CHECKPOINTS[name, 224 if image_size <= 304 else 384]
    url, folder = _URL.format(name=stem), cache_folder() / "weights"
    record = folder / f"{stem}.npz.sha256"  # as sha256sum writes and checks it
    checksum = f"sha256:{record.read_text().split()[0]}" if record.exists() else f"md5:{published_md5(url)}"
    (path,) = fetch([Remote(f"{stem}.npz", (url,), checksum, round(_megabytes(name, stem)))], folder)
    if not record.exists():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        replace_file(record, lambda part: part.write_text(f"{digest}  {path.name}\n"))
    return path


def _megabytes(name: str, stem: str) -> float:
    config, size = CONFIGS[name], int(stem.rsplit("_", 1)[1])
    shapes = [shape for _, shape in layout(config, 1 + (size // config.patch_size) ** 2).values()]
    return 4e-6 * (sum(math.prod(shape) for shape in shapes) + 1000 * (config.width + 1))


def published_md5(url: str) -> str:
    """The MD5 (hexadecimal) that Google's storage gives for a file, in the header ``x-goog-hash: md5=<base64>``.

    Raises OSError where there is no answer or no such header.
    """
    by_hand = "Download it by hand and give its path as weights=."
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30) as response:
            headers = response.headers.get_all("x-goog-hash") or []
    except (urllib.error.URLError, OSError) as error:
        raise OSError(f"{url} cannot be reached ({error}). {by_hand}") from error
    for part in ",".join(headers).split(","):
        kind, _, value = part.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value).hex()
    raise OSError(f"{url}: the server gives no MD5 to check the file by. {by_hand}")
