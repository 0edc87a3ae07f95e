"""State dicts of Vision Transformers: outputs of timm and of Hugging Face's Transformers, names, files that do not fit.

The golden numbers were made by timm 1.0.29 and transformers 5.17 (PyTorch 2.13) from the weights of `drawn`: tokens
after the last norm of small networks for `images`, position tables by ``torch.nn.functional.interpolate``, and of
whole networks the digest of the names and shapes of all weights.
"""

import hashlib
import json
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.models import vit
from xaiutils.models.vit_state_dict import cubic_matrix, layout, load_vit, naming_of

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = dict(np.load(FOLDER / "vit_state_dicts.npz"))
NAMES = json.loads((FOLDER / "vit_state_dicts.json").read_text())
TINY = {"patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp_ratio": 2}
STANDARD = {**TINY, "scaling": "standardised"}
DINOV2 = {**STANDARD, "layer_scale": True}
DINOV3 = vit.ViTConfig(**DINOV2, registers=4, rotary=100.0, epsilon=1e-5)
CONFIGS = {
    "vit": vit.ViTConfig(**TINY),
    "deit": vit.ViTConfig(**STANDARD),
    "deit distilled": vit.ViTConfig(**STANDARD, distilled=True),
    "dinov2 timm": vit.ViTConfig(**DINOV2),
    "dinov2 reg timm": vit.ViTConfig(**DINOV2, registers=4),
    "dinov3 timm": DINOV3,
    "dinov3 timm qkvb": DINOV3,
    "rad_dino": vit.ViTConfig(**{**DINOV2, "scaling": "chest_xray"}),
    "dinov2 reg hf": vit.ViTConfig(**DINOV2, registers=4),
    "dinov3 hf": DINOV3,
}
TIMM = naming_of({})
TIMM_DINOV3 = naming_of(dict.fromkeys(["blocks.0.gamma_1"], np.zeros(1)))
HF_DINOV2, HF_DINOV3 = (naming_of({f"embeddings.patch_embeddings.{n}weight": np.zeros(1)}) for n in ("projection.", ""))
NAMINGS = {"rad_dino": HF_DINOV2, "dinov2 reg hf": HF_DINOV2, "dinov3 hf": HF_DINOV3}
NAMINGS |= {"dinov3 timm": TIMM_DINOV3, "dinov3 timm qkvb": TIMM_DINOV3}


def images(size):
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def drawn(name, shape):
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        return x * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    is_factor = name.split(".")[-1] in ("weight", "gamma", "gamma_1", "gamma_2", "lambda1")
    return 1 + np.float32(0.1) * np.abs(x) if is_factor else np.float32(0.1) * x


def shapes_of(name, config, patches, classes=0):
    """Names and shapes of a file's arrays, as the library that is meant by ``name`` writes it."""
    naming = NAMINGS.get(name, TIMM)
    rows = patches if config.registers and naming is TIMM else 1 + config.distilled + patches
    found = {theirs: shape for theirs, (_, shape) in layout(config, naming, rows).items()}
    if naming is TIMM_DINOV3:  # whose queries and values alone have a bias, in arrays of their own, or none has
        for i in range(config.depth):
            del found[f"blocks.{i}.attn.qkv.bias"]
            if "qkvb" in name:
                found |= {f"blocks.{i}.attn.{part}_bias": (config.width,) for part in "qv"}
    if naming is HF_DINOV2:
        found["embeddings.mask_token"] = (1, config.width)
    if naming is HF_DINOV3:
        found["embeddings.mask_token"] = (1, 1, config.width)
    for head in ("head", "head_dist")[: (1 + config.distilled) if classes else 0]:
        found |= {f"{head}.weight": (classes, config.width), f"{head}.bias": (classes,)}
    return found


def state_of(name, classes=0):
    return {n: drawn(n, shape) for n, shape in shapes_of(name, CONFIGS[name], 16, classes).items()}


def small(config, size=32, units=5):
    inputs, tokens = vit.vit_backbone(config, size)
    x = vit.TakeClassToken(1 + config.distilled, name="features")(tokens)
    return keras.Model(inputs, keras.layers.Dense(units, name="logits")(x), name="small")


def saved(state, path):
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


def loaded(state, config, folder, size=32):
    model = small(config, size)
    load_vit(model, config, saved(state, folder / "a.safetensors"))
    return model


def tokens(model, size=32):
    return keras.Model(model.input, model.get_layer("norm").output)(images(size)).numpy()


# Activations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_theirs(name, tmp_path):
    classes = 5 if "dino" not in name else 0
    state, config = state_of(name, classes), CONFIGS[name]
    model = loaded(state, config, tmp_path)
    np.testing.assert_allclose(tokens(model), GOLDEN[name], atol=2e-5)
    if classes:  # as many as the model has: they are copied too
        np.testing.assert_allclose(model(images(32)), GOLDEN[f"{name} logits"], atol=2e-5)


@pytest.mark.parametrize("key", [key for key in GOLDEN if key.split(" ")[-1] in ("24", "48")])
def test_tokens_of_another_size_are_theirs(key, tmp_path):
    """Each library enlarges the position table in its own way; rotary positions know no size."""
    name, size = key.rsplit(" ", 1)
    model = loaded(state_of(name), CONFIGS[name], tmp_path, int(size))
    np.testing.assert_allclose(tokens(model, int(size)), GOLDEN[key], atol=2e-5)


@pytest.mark.parametrize("new", [3, 4, 7, 9])
@pytest.mark.parametrize(("way", "options"), [("cubic", ()), ("antialias", (True,)), ("offset", (False, 0.1))])
def test_cubic_interpolation_is_pytorchs(way, options, new):
    matrix = cubic_matrix(5, new, *options)
    found = np.einsum("ai,bj,cij->cab", matrix, matrix, drawn("table", (1, 3, 5, 5))[0])
    np.testing.assert_allclose(found, GOLDEN[f"{way} {new}"], atol=1e-5)


def as_metas(state, config, naming):
    """The arrays of Hugging Face's file with the names of Meta's code: one array for queries, keys and values."""
    ours = {paths: state[theirs] for theirs, (paths, _) in layout(config, naming, 17).items()}
    registers = "storage_tokens" if config.rotary else "register_tokens"
    found = {"mask_token": np.zeros((1, 24), np.float32)}
    for theirs, (paths, shape) in layout(config, naming_of({registers: np.zeros(1)}), 17).items():
        parts = [ours.get((path,), np.full(shape[0] // 3, 7, np.float32)) for path in paths]  # a key's bias: masked
        found[theirs] = np.concatenate(parts)
        if config.rotary and theirs.endswith("qkv.bias"):
            found[f"{theirs}_mask"] = np.repeat([1, 0, 1], 24).astype(np.float32)
    return found


@pytest.mark.parametrize("name", ["rad_dino", "dinov2 reg hf", "dinov3 hf"])
def test_metas_own_files_hold_the_same(name, tmp_path):
    config, naming = CONFIGS[name], NAMINGS[name]
    state = as_metas(state_of(name), config, naming)
    if config.rotary:
        periods = 100 ** (4 * np.arange(2) / 8)
        state["rope_embed.periods"] = periods.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(tokens(loaded(state, config, tmp_path)), GOLDEN[name], atol=2e-5)
    if config.rotary:
        state["rope_embed.periods"] = (1e4 ** (4 * np.arange(2) / 8)).astype(np.float32)
        with pytest.raises(ValueError, match="rope_embed.periods. of another base than 100"):
            loaded(state, config, tmp_path)
        new = {f"model.{n}" if n.startswith("layer") else n: x for n, x in state_of(name).items()}  # of Transformers 5
        np.testing.assert_allclose(tokens(loaded(new, config, tmp_path)), GOLDEN[name], atol=2e-5)


def test_metas_dinov2_adds_a_tenth_to_the_new_size(tmp_path):
    config, naming = CONFIGS["rad_dino"], HF_DINOV2
    state = as_metas(state_of("rad_dino"), config, naming)
    table = loaded(state, config, tmp_path, 48).get_layer("positions").positions.numpy()
    matrix, old = cubic_matrix(4, 6, offset=0.1), state["pos_embed"][0, 1:].reshape(4, 4, 24)
    np.testing.assert_allclose(
        table[0, 1:].reshape(6, 6, 24), np.einsum("ai,bj,ijc->abc", matrix, matrix, old), atol=1e-6
    )
    np.testing.assert_array_equal(table[0, 0], state["pos_embed"][0, 0])


def test_half_precision_files(tmp_path):
    """F16 and BF16 are the numbers rounded, read as float32."""
    config, state = CONFIGS["dinov2 timm"], state_of("dinov2 timm")
    for kind in (np.float16, ml_dtypes.bfloat16):
        model = loaded({n: x.astype(kind) for n, x in state.items()}, config, tmp_path)
        expected = state["blocks.1.mlp.fc1.weight"].T.astype(kind).astype(np.float32)
        np.testing.assert_array_equal(model.get_layer("block_01_mlp_in").kernel, expected)
        assert np.abs(expected - state["blocks.1.mlp.fc1.weight"].T).max() > 1e-5


# Names ----------------------------------------------------------------------------------------------------------------


def size_of_table(name):
    side = {"vit_s32": 7, "vit_b32": 7}.get(name, 14) if not name.startswith("dinov2") else 37
    return side * side


@pytest.mark.parametrize("name", NAMES["whole"])
def test_names_and_shapes_of_whole_networks(name):
    ours, _, hf = name.partition(" ")
    config = vit.CONFIGS[ours]
    kind = f"{ours[:6]} {'reg ' if config.registers else ''}{hf or 'timm'}"
    kind = {"dinov3 reg hf": "dinov3 hf", "dinov3 reg timm": "dinov3 timm", "dinov2 hf": "rad_dino"}.get(kind, kind)
    found = shapes_of(kind, config, size_of_table(ours), 0 if "dino" in ours else 1000)
    digest = hashlib.sha256("\n".join(sorted(f"{n} {shape}" for n, shape in found.items())).encode()).hexdigest()
    assert sum(int(np.prod(shape)) for shape in found.values()) == NAMES["whole"][name]["numbers"]
    assert (len(found), digest) == (NAMES["whole"][name]["arrays"], NAMES["whole"][name]["names"])


def test_rad_dino_is_a_dinov2_of_other_images():
    ours, theirs = vit.CONFIGS["rad_dino"], vit.CONFIGS["dinov2_vitb14"]
    assert layout(ours, HF_DINOV2, 1370) == layout(theirs, HF_DINOV2, 1370)
    scale = small(CONFIGS["rad_dino"]).get_layer("standardise")
    np.testing.assert_allclose(scale(np.full((1, 1, 1, 3), 51.0)), (0.2 - 0.5307) / 0.2583, rtol=1e-5)


# Files that do not fit, and the registry ------------------------------------------------------------------------------


def test_weights_that_do_not_fit(tmp_path):
    config, state = CONFIGS["dinov2 reg timm"], state_of("dinov2 reg timm")
    model = small(config)
    for changed, words in (
        ({k: v for k, v in state.items() if k != "reg_token"}, "missing: reg_token"),
        (state | {"blocks.2.norm1.weight": np.ones(24, "f")}, "unexpected: blocks.2.norm1.weight"),
        (state | {"reg_token": np.ones((1, 3, 24), "f")}, r"of another shape: reg_token \(1, 3, 24\) in place of"),
        (state | {"norm.bias": np.full(24, np.nan, "f")}, "not finite numbers: norm.bias"),
        (state | {"pos_embed": np.ones((1, 18, 24), "f")}, r"pos_embed \(1, 18, 24\) in place of \(1, 17, 24\)"),
        (state_of("dinov3 hf"), "missing: .*position_embeddings.*with the names of timm, of Meta's code or of Hugging"),
        ({"w": np.ones(3, "f")}, "missing: .* more; unexpected: w"),
    ):
        with pytest.raises(ValueError, match=words):
            load_vit(model, config, saved(changed, tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="has no head for ImageNet's classes; use head='linear'"):
        load_vit(model, config, saved(state, tmp_path / "a.safetensors"), with_head=True)


def test_classes_of_another_number_stay(tmp_path):
    config, state = CONFIGS["deit distilled"], state_of("deit distilled", classes=9)
    model = small(config)
    before = model.get_layer("logits").get_weights()
    load_vit(model, config, saved(state, tmp_path / "a.safetensors"))
    for a, b in zip(before, model.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"head.weight \(9, 24\) in place of \(5, 24\)"):
        load_vit(model, config, tmp_path / "a.safetensors", with_head=True)


def test_build_model_takes_the_path(monkeypatch, tmp_path):
    """A distilled DeiT by its name, from a .safetensors and as npz; its own head of 1000 classes on request."""
    monkeypatch.setitem(vit.CONFIGS, "deit_ti16_distilled", CONFIGS["deit distilled"])
    state = state_of("deit distilled", classes=1000)
    entry = xai.MODELS["deit_ti16_distilled"]
    assert entry.files == (".npz", ".pth", ".safetensors")
    model = small(CONFIGS["deit distilled"], units=1000)
    entry.load_file(model, saved(state, tmp_path / "deit.safetensors"), True)
    np.savez(tmp_path / "deit.npz", **state)
    again = small(CONFIGS["deit distilled"], units=1000)
    entry.load_file(again, tmp_path / "deit.npz", True)
    np.testing.assert_array_equal(model(images(32)), again(images(32)))
    with pytest.raises(ValueError, match="has no pretrained weights to download; give the path of a file as weights="):
        xai.build_model("deit_ti16_distilled", weights="imagenet")


@pytest.mark.parametrize("name", ["deit distilled", "dinov3 timm"])
def test_models_survive_a_file(name, tmp_path):
    model = small(CONFIGS[name])
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.keras")(images(32)), model(images(32)), atol=1e-6)
