"""Vision Transformer checkpoints: Google's layout against a plain computation in NumPy, DINOv2's against its
reference; position tables of other sizes, downloads, files that do not fit."""

import base64
import hashlib
import io
import math
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from scipy.special import erf

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.models import augreg, vit, vit_state_dict

TINY = vit.ViTConfig(patch_size=8, width=24, depth=2, heads=3, mlp_ratio=2, gelu="tanh")
TI = {"patch": 16, "width": 192, "depth": 12, "heads": 3, "hidden": 768}


def google_arrays(patch, width, depth, heads, hidden, grid, classes, rng=None):
    """A checkpoint in the layout of google-research/vision_transformer, its names and shapes written out here once
    more; random numbers of the sizes that trained weights have, or zeros without ``rng``."""
    size = width // heads

    def make(*shape, scale=0.1, offset=0.0):
        if rng is None:
            return np.zeros(shape, np.float32)
        return (offset + scale * rng.normal(size=shape)).astype(np.float32)

    arrays = {
        "cls": make(1, 1, width),
        "embedding/kernel": make(patch, patch, 3, width, scale=1 / patch),
        "embedding/bias": make(width),
        "Transformer/posembed_input/pos_embedding": make(1, 1 + grid * grid, width),
        "Transformer/encoder_norm/scale": make(width, offset=1.0),
        "Transformer/encoder_norm/bias": make(width),
        "head/kernel": make(width, classes),
        "head/bias": make(classes),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays[f"{block}{norm}/scale"] = make(width, offset=1.0)
            arrays[f"{block}{norm}/bias"] = make(width)
        for part in ("query", "key", "value"):
            kernel = make(width, heads, size, scale=width**-0.5)
            arrays[f"{block}MultiHeadDotProductAttention_1/{part}/kernel"] = kernel
            arrays[f"{block}MultiHeadDotProductAttention_1/{part}/bias"] = make(heads, size)
        arrays[f"{block}MultiHeadDotProductAttention_1/out/kernel"] = make(heads, size, width, scale=width**-0.5)
        arrays[f"{block}MultiHeadDotProductAttention_1/out/bias"] = make(width)
        arrays[f"{block}MlpBlock_3/Dense_0/kernel"] = make(width, hidden, scale=width**-0.5)
        arrays[f"{block}MlpBlock_3/Dense_0/bias"] = make(hidden)
        arrays[f"{block}MlpBlock_3/Dense_1/kernel"] = make(hidden, width, scale=hidden**-0.5)
        arrays[f"{block}MlpBlock_3/Dense_1/bias"] = make(width)
    return arrays


def google_forward(p, images, depth):
    """Tokens after the last norm and each block's attention, as vit_jax/models_vit.py computes them, in float64."""
    p = {name: value.astype(np.float64) for name, value in p.items()}
    x = images.astype(np.float64) / 127.5 - 1
    patch = p["embedding/kernel"].shape[0]
    n, side = len(x), x.shape[1] // patch
    x = x.reshape(n, side, patch, side, patch, 3)
    x = np.einsum("nayxbc,ybcw->naxw", x, p["embedding/kernel"]) + p["embedding/bias"]
    x = np.concatenate([np.repeat(p["cls"], n, 0), x.reshape(n, side * side, -1)], axis=1)
    x = x + p["Transformer/posembed_input/pos_embedding"]

    def norm(y, name):
        mean, variance = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
        return (y - mean) / np.sqrt(variance + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]

    def gelu(y):  # Flax: approximate=True
        return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))

    maps = []
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        heads = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        query, key, value = (
            np.einsum("ntw,whd->nthd", y, p[f"{heads}/{part}/kernel"]) + p[f"{heads}/{part}/bias"]
            for part in ("query", "key", "value")
        )
        scores = np.einsum("nqhd,nkhd->nhqk", query / np.sqrt(query.shape[-1]), key)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        maps.append(weights)
        y = np.einsum("nhqk,nkhd->nqhd", weights, value)
        x = x + np.einsum("nqhd,hdw->nqw", y, p[f"{heads}/out/kernel"]) + p[f"{heads}/out/bias"]
        y = norm(x, f"{block}/LayerNorm_2")
        y = gelu(y @ p[f"{block}/MlpBlock_3/Dense_0/kernel"] + p[f"{block}/MlpBlock_3/Dense_0/bias"])
        x = x + y @ p[f"{block}/MlpBlock_3/Dense_1/kernel"] + p[f"{block}/MlpBlock_3/Dense_1/bias"]
    return norm(x, "Transformer/encoder_norm"), maps


def noise(size, n=2):
    return np.random.default_rng(3).uniform(0, 255, (n, size, size, 3)).astype(np.float32)


def tokens_and_attention(model, images, depth):
    outputs = [model.get_layer(f"block_{i:02d}_attention").output[1] for i in range(depth)]
    tokens, *maps = keras.Model(model.input, [model.get_layer("norm").output, *outputs])(images)
    return tokens.numpy(), [m.numpy() for m in maps]


@pytest.fixture(scope="module")
def ti16(tmp_path_factory):
    """A full-size Ti/16 checkpoint for 224 pixels with 1000 classes: its arrays and its file."""
    arrays = google_arrays(**TI, grid=14, classes=1000, rng=np.random.default_rng(0))
    path = tmp_path_factory.mktemp("augreg") / "Ti_16.npz"
    np.savez(path, **arrays)
    return arrays, path


# Google's layout ------------------------------------------------------------------------------------------------------


def tiny_model(size):
    inputs, tokens = vit.vit_backbone(TINY, size)
    features = vit.TakeClassToken(name="features")(tokens)
    return keras.Model(inputs, keras.layers.Dense(1000, name="logits")(features), name="tiny")


def test_a_tiny_checkpoint_gives_flax_numbers(tmp_path):
    rng = np.random.default_rng(1)
    arrays = google_arrays(8, 24, 2, 3, 48, grid=4, classes=1000, rng=rng)
    arrays |= {"pre_logits/kernel": np.ones((24, 24), np.float32), "pre_logits/bias": np.ones(24, np.float32)}
    np.savez(tmp_path / "tiny.npz", **arrays)
    model = tiny_model(32)
    augreg.load_augreg(model, TINY, tmp_path / "tiny.npz", with_head=True)
    tokens, maps = tokens_and_attention(model, noise(32), 2)
    expected, expected_maps = google_forward(arrays, noise(32), 2)
    np.testing.assert_allclose(tokens, expected, atol=2e-5)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-5)
    logits = expected[:, 0] @ arrays["head/kernel"] + arrays["head/bias"]
    np.testing.assert_allclose(model(noise(32)), logits, atol=2e-5)


def test_a_full_size_ti16_gives_flax_numbers(ti16):
    arrays, path = ti16
    model = xai.build_model("vit_ti16", weights=path, head="imagenet")
    assert model.count_params() == 5_717_416
    assert model.count_params() == sum(a.size for a in arrays.values())
    images = noise(224, n=1)
    tokens, maps = tokens_and_attention(model, images, 12)
    expected, expected_maps = google_forward(arrays, images, 12)
    np.testing.assert_allclose(tokens, expected, atol=1e-4)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-4)
    logits = expected[:, 0] @ arrays["head/kernel"] + arrays["head/bias"]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(model(images), probabilities, atol=1e-5)


def test_the_other_gelu_would_be_noticed():
    x = np.linspace(-4, 4, 801)
    exact = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    assert 1e-4 < np.abs(np.asarray(vit.gelu_tanh(x)) - exact).max() < 5e-4
    config = xai.build_model("vit_ti16", image_size=32).get_layer("block_00_gelu").get_config()
    assert "gelu_tanh" in str(config)


def test_a_head_of_the_users_own_classes_stays(ti16):
    _, path = ti16
    own = xai.build_model("vit_ti16", 5, weights=path, head="thesis", seed=4)
    fresh = xai.build_model("vit_ti16", 5, head="thesis", seed=4)
    np.testing.assert_array_equal(own.get_layer("logits").kernel, fresh.get_layer("logits").kernel)
    assert not np.allclose(own.get_layer("patches").kernel, fresh.get_layer("patches").kernel)


def test_every_variable_of_a_backbone_is_in_the_layout():
    timm = vit_state_dict.naming_of({})
    for name, size in (("vit_ti16", 32), ("dinov2_vits14", 28), ("deit_ti16_distilled", 32), ("dinov3_vits16", 32)):
        model, config = xai.build_model(name, image_size=size), vit.CONFIGS[name]
        of_head = {v.path for v in model.get_layer("logits").variables}
        found = [path for paths, _ in vit_state_dict.layout(config, timm, 5).values() for path in paths if path]
        assert sorted(found) == sorted({v.path for v in model.variables} - of_head)
        if name == "vit_ti16":
            assert sorted(path for path, _ in augreg.layout(config, 5).values()) == sorted(found)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit_ti16", 5_717_416),
        ("vit_s16", 22_050_664),
        ("vit_s32", 22_878_952),
        ("vit_b16", 86_567_656),
        ("vit_b32", 88_224_232),
        ("vit_l16", 304_326_632),
    ],
)
def test_numbers_of_weights_are_the_published_ones(name, published):
    """At 224 pixels with 1000 classes (timm's and torchvision's counts)."""
    config = vit.CONFIGS[name]
    shapes = [shape for _, shape in augreg.layout(config, 1 + (224 // config.patch_size) ** 2).values()]
    assert sum(math.prod(shape) for shape in shapes) + 1000 * (config.width + 1) == published


def test_a_b32_has_the_size_of_the_thesis():
    model = xai.build_model("vit_b32")
    headless = keras.Model(model.input, model.get_layer("features").output)
    assert headless.count_params() == 87_455_232
    assert model.get_layer("positions").positions.shape == (1, 50, 768)


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        (TI, 23_226_422),
        ({"patch": 16, "width": 384, "depth": 12, "heads": 6, "hidden": 1536}, 88_851_254),
    ],
)
def test_the_layout_weighs_what_googles_files_weigh(sizes, published):
    """Names and shapes add up to the bytes of the files fine-tuned at 384 pixels (a stored zip, 64-byte headers)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in google_arrays(**sizes, grid=24, classes=1000).items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    assert len(out.getvalue()) == published


# Position tables ------------------------------------------------------------------------------------------------------


def ramp_table(n):
    """Position table of two values for each patch, its row and column in [0, 1]; 7 for the class token."""
    rows, columns = np.mgrid[:n, :n] / (n - 1)
    grid = np.stack([rows, columns], -1).reshape(1, n * n, 2)
    return np.concatenate([np.full((1, 1, 2), 7.0), grid], axis=1).astype(np.float32)


@pytest.mark.parametrize("grid", [7, 12, 14, 24, 31])
def test_googles_interpolation_keeps_a_ramp(grid):
    np.testing.assert_allclose(augreg.resize_positions(ramp_table(14), grid), ramp_table(grid), atol=1e-5)


@pytest.mark.parametrize("grid", [8, 16, 24, 37])
def test_dinov2s_interpolation_keeps_a_ramp_inside(grid):
    """To a twentieth of a patch: PyTorch's cubic kernel (a = -0.75) does not keep straight lines exactly."""
    found = vit_state_dict.resize_positions(ramp_table(16), grid)
    assert (found[:, 0] == 7).all()
    centres = ((np.arange(grid) + 0.5) * 16 / grid - 0.5) / 15
    inner = (centres > 1 / 15) & (centres < 14 / 15)  # the edge is repeated, which bends the outer rows more
    column = found[0, 1:].reshape(grid, grid, 2)[:, :, 1]
    np.testing.assert_allclose(column[:, inner], np.tile(centres[inner], (grid, 1)), atol=1 / 15 / 20)
    assert (np.diff(column, axis=1) > 0).all()


def test_cubic_interpolation_is_pytorchs():
    """Values of ``torch.nn.functional.interpolate(..., mode="bicubic")`` of 0, 0, 1, 0 to 6 samples, by its formula."""
    table = np.zeros((1, 17, 1), np.float32)
    table[0, 1:].reshape(4, 4)[:, 2] = 1
    row = vit_state_dict.resize_positions(table, 6)[0, 1:].reshape(6, 6)[0]

    def cubic(d, a=-0.75):
        d = abs(d)
        return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0

    np.testing.assert_allclose(row, [cubic((i + 0.5) * 4 / 6 - 0.5 - 2) for i in range(6)], atol=1e-6)


def test_a_checkpoint_serves_another_image_size(ti16):
    arrays, path = ti16
    model = xai.build_model("vit_ti16", image_size=96, weights=path)
    table = arrays["Transformer/posembed_input/pos_embedding"]
    np.testing.assert_array_equal(model.get_layer("positions").positions, augreg.resize_positions(table, 6))
    resized = {**arrays, "Transformer/posembed_input/pos_embedding": augreg.resize_positions(table, 6)}
    tokens, _ = tokens_and_attention(model, noise(96), 1)
    np.testing.assert_allclose(tokens, google_forward(resized, noise(96), 12)[0], atol=1e-4)


# Files that do not fit ------------------------------------------------------------------------------------------------


def changed(arrays, **changes):
    return {
        **{k: v for k, v in arrays.items() if k not in changes},
        **{k: v for k, v in changes.items() if v is not None},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: changed(a, cls=None), "missing: cls"),
        (lambda a: a | {"Transformer/encoderblock_12/LayerNorm_0/scale": a["cls"]}, "unexpected: .*encoderblock_12"),
        (lambda a: changed(a, **{"embedding/bias": a["cls"]}), r"of another shape: embedding/bias \(1, 1, 192\)"),
        (
            lambda a: changed(a, **{"embedding/bias": a["embedding/bias"] * np.nan}),
            "not finite numbers: embedding/bias",
        ),
        (lambda a: changed(a, **{"head/bias": None}), "missing: head/bias"),
        (
            lambda a: a | {"head/kernel": np.zeros((192, 21843), "f"), "head/bias": np.zeros(21843, "f")},
            "file is of vit_ti16, with 21843 classes",
        ),
        (
            lambda a: {"weight": a["cls"]},
            "missing: .* and .* more; unexpected: weight. Give a checkpoint in the layout",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_why(ti16, tmp_path, change, words):
    np.savez(tmp_path / "bad.npz", **change(dict(ti16[0])))
    with pytest.raises(ValueError, match=words):
        xai.build_model("vit_ti16", weights=tmp_path / "bad.npz", head="imagenet")


def test_a_checkpoint_of_another_size_names_its_model(ti16):
    with pytest.raises(ValueError, match="vit_s16 do not fit: .*The file is of vit_ti16"):
        xai.build_model("vit_s16", weights=ti16[1])
    with pytest.raises(ValueError, match="dinov2_vits14 do not fit: missing: .*file of the same model"):
        xai.build_model("dinov2_vits14", weights=ti16[1])


def test_damaged_and_pickled_files_are_refused(ti16, tmp_path):
    path = tmp_path / "cut.npz"
    path.write_bytes(ti16[1].read_bytes()[:100_000])
    with pytest.raises(ValueError, match="not a readable (.npz checkpoint|zip file)"):
        xai.build_model("vit_ti16", weights=path)
    np.savez(path, cls=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a readable (.npz checkpoint|zip file)"):
        xai.build_model("vit_ti16", weights=path)


# The download ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def storage(ti16, tmp_path, monkeypatch):
    """A server like Google's storage, with the Ti/16 file; the cache folder; and the requests that came."""
    content, requests = {"bytes": ti16[1].read_bytes(), "md5": None, "header": True}, []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append((self.command, self.path))
            digest = content["md5"] or hashlib.md5(content["bytes"]).digest()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content["bytes"])))
            if content["header"]:
                self.send_header("x-goog-hash", "crc32c=AAAAAA==")
                self.send_header("x-goog-hash", f"md5={base64.b64encode(digest).decode()}")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content["bytes"])

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(augreg, "_URL", f"http://127.0.0.1:{server.server_port}/{{name}}.npz")
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    yield content, requests, tmp_path / "weights"
    server.shutdown()
    server.server_close()


def test_weights_are_downloaded_once_and_checked(ti16, storage):
    content, requests, folder = storage
    model = xai.build_model("vit_ti16", weights="imagenet", head="imagenet")
    np.testing.assert_array_equal(model.get_layer("logits").kernel, ti16[0]["head/kernel"])
    (path,) = folder.glob("*.npz")
    assert path.name.startswith("Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03")
    assert path.name.endswith("res_224.npz")
    record = path.with_name(path.name + ".sha256").read_text()
    assert record == f"{hashlib.sha256(content['bytes']).hexdigest()}  {path.name}\n"
    assert [command for command, _ in requests] == ["HEAD", "GET"]
    augreg.download("vit_ti16", 224)
    assert len(requests) == 2  # the second start asks nobody
    path.write_bytes(b"changed")
    augreg.download("vit_ti16", 224)  # not what was recorded: downloaded anew
    assert path.read_bytes() == content["bytes"]
    content["bytes"], before = content["bytes"][:-1], path.read_bytes()
    path.write_bytes(b"changed")
    with pytest.raises(OSError, match="could not be downloaded.*hash"):
        augreg.download("vit_ti16", 224)
    assert path.read_bytes() != before[:-1]


def test_a_damaged_transfer_is_refused(storage):
    content, _, folder = storage
    content["md5"] = b"0" * 16
    with pytest.raises(OSError, match=r"\(23 MB\) could not be downloaded"):
        augreg.download("vit_ti16", 224)
    assert not list(folder.glob("*.sha256"))
    content["header"] = False
    with pytest.raises(OSError, match="no MD5.*give its path as weights="):
        augreg.download("vit_ti16", 224)


def test_no_connection_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(augreg, "_URL", "http://127.0.0.1:9/{name}.npz")
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="cannot be reached.*give its path as weights="):
        xai.build_model("vit_b32", weights="imagenet")


def test_checkpoints_are_chosen_by_image_size(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    monkeypatch.setattr(augreg, "published_md5", lambda url: asked.append(url) or "0")
    monkeypatch.setattr(augreg, "fetch", lambda remotes, folder: [tmp_path / "file"])
    (tmp_path / "file").touch()
    for size in (224, 304, 320, 384):
        augreg.download("vit_b32", size)
    assert [url.rsplit("_", 1)[1] for url in asked] == ["224.npz", "384.npz"]
    assert asked[0].startswith("https://storage.googleapis.com/vit_models/augreg/B_32-i21k-300ep-lr_0.001-aug_medium1")


# DINOv2 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dino(kit):
    path = kit / "weights" / "dinov2_vits14_saliency_fp16.npz"
    return xai.build_model("dinov2_vits14", 2, 224, weights=path), path


def test_dinov2_reproduces_the_reference(dino, kit):
    """Tokens and attention of ONNX Runtime's run of the original; the weights here are rounded to float16."""
    model, _ = dino
    reference = np.load(kit / "weights" / "dinov2_vits14_reference.npz")
    scaled = reference["x_nchw"].transpose(0, 2, 3, 1)
    images = ((scaled * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255).astype(np.float32)
    tokens, maps = tokens_and_attention(model, images, 12)
    np.testing.assert_allclose(tokens, reference["final_layernorm_tokens"], atol=6e-3, rtol=1e-3)
    np.testing.assert_allclose(maps[0], reference["attention_block0"], atol=1e-3)
    np.testing.assert_allclose(maps[11], reference["attention_block11"], atol=1e-3)
    features = keras.Model(model.input, model.get_layer("features").output)(images)
    np.testing.assert_array_equal(features, tokens[:, 0])


def test_dinov2_is_explained_by_its_tokens(dino):
    from xaiutils.attribution import Network

    model, _ = dino
    network = Network.of(model)
    assert network.cam_layer() == "block_11_norm1"
    assert network.grid("block_11_norm1") == (16, 16)
    maps = xai.explain(model, noise(224), method="grad_cam")
    assert maps.shape == (2, 224, 224)
    assert np.ptp(maps) > 0


def test_dinov2_serves_other_image_sizes(dino, tmp_path):
    _, path = dino
    model = xai.build_model("dinov2_vits14", 2, 112, weights=path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    table = arrays["embeddings.position_embeddings_16x16"]
    np.testing.assert_array_equal(model.get_layer("positions").positions, vit_state_dict.resize_positions(table, 8))
    # The same weights as PyTorch keeps them: (out, in), one name for the table, the token of masked patches.
    torch = {
        (name.removesuffix(".kernel") + ".weight" if name.endswith(".kernel") else name): (
            value.T if name.endswith(".kernel") else value
        )
        for name, value in arrays.items()
    }
    torch["embeddings.position_embeddings"] = torch.pop("embeddings.position_embeddings_16x16")
    torch["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    np.savez(tmp_path / "torch.npz", **torch)
    other = xai.build_model("dinov2_vits14", 2, 112, weights=tmp_path / "torch.npz")
    np.testing.assert_array_equal(other(noise(112)), model(noise(112)))
    with pytest.raises(ValueError, match="no head for ImageNet's classes"):
        xai.build_model("dinov2_vits14", weights=path, head="imagenet")
