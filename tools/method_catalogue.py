"""Write docs/methods.md from METHODS, and a small figure of every method into docs/methods.

    python tools/method_catalogue.py                  the text alone
    python tools/method_catalogue.py --figures        and every figure (minutes)
    python tools/method_catalogue.py --figures lrp rise
    python tools/method_catalogue.py --check          nothing is written; status 1 if the text is not current

The text comes from the declarations and docstrings, and from PITFALLS below. Figures show a photograph that comes with
scikit-image (Chelsea the cat, CC0) and a phantom with a lesion that this project generates. Methods for transformers
need a trained one: the environment variable XAI_KIT names a folder with DINOv2's weights and with photographs of cats
and dogs (for the head); without it, their figures stay as they are.
"""

import argparse
import inspect
import os
import re
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import xaiutils as xai
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.attribution.method import FAMILY_TITLES, Method
from xaiutils.backend import keras
from xaiutils.files import replace_file, write_text
from xaiutils.images import fit_image
from xaiutils.plots.maps import draw_map
from xaiutils.registry import Parameter

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURES = DOCS / "methods.md", DOCS / "methods"
LARGEST = 40_000  # bytes of a figure

SUITS = {"cnn": "convolutional networks", "vit": "Vision Transformers"}

# Parameters of the figures where the defaults would take minutes.
FIGURE_PARAMETERS: dict[str, dict] = {
    "score_cam": {"max_channels": 200},
    "rise": {"n_masks": 1000},
    "lime": {"n_samples": 500},
    "prediction_difference": {"patch_size": 16, "n_samples": 4},
}

# What to watch for, beyond what the docstring says.
PITFALLS = {
    "vanilla_gradients": "Says where the score is sensitive, not what made it: a strong gradient on a dark background "
    "is no evidence. Shattered and noisy in deep ReLU networks.",
    "gradients_x_inputs": "Depends on what the value 0 means: black pixels never get attribution, which hides dark "
    "lesions.",
    "smoothgrad": "The noise is a fraction of each image's range; libraries that take an absolute sigma give another "
    "map for images in [0, 255]. The absolute value is taken after the mean.",
    "smoothgrad_squared": "Squares make the map positive and sharpen it: only the order of pixels can be compared with "
    "other methods.",
    "vargrad": "Shows where the gradient varies, which includes places where its mean is 0; it does not tell for or "
    "against.",
    "integrated_gradients": "The baseline decides: pixels that equal it get nothing. Check completeness (the map sums "
    "to S(x) - S(baseline)) before reading a map with few steps; saturated networks need more.",
    "integrated_gradients_bw": "Twice the cost of one baseline; in a grey image, whose pixels lie between the "
    "two, contributions of opposite sign can cancel.",
    "expected_gradients": "A random draw: raise n_samples until two seeds agree. The background images are part of the "
    "explanation; state them.",
    "guided_backprop": "Nearly independent of the class and of the upper layers' weights (Adebayo et al. 2018, "
    "arXiv:1810.03292): it shows edges that the first layers pass on. Defined for ReLU networks.",
    "deconvolution": "As for guided backpropagation: hardly depends on the class. Defined for ReLU networks.",
    "deep_lift": "The baseline decides, as for integrated gradients. Products (gates, attention) and normalisation "
    "need rules that the paper does not give.",
    "full_grad": "Complete only with the implicit biases of smooth activations, norms and products. The drawn map is "
    "no longer complete: absolute values are scaled before they are added.",
    "occlusion": "The window's size decides what can be seen: evidence smaller than it is smeared, evidence that is "
    "repeated elsewhere is missed. A grey window is itself an unusual image.",
    "rise": "Random masks: noise falls with the root of n_masks, and evidence much smaller than a mask's cell is "
    "lost. The map has a constant background level.",
    "lime": "Depends on the superpixels and on the random draw; compare several seeds. Explains a linear model fitted "
    "to cut-up images.",
    "prediction_difference": "By far the slowest. The conditional model of a patch is Gaussian and local, so what it "
    "fills in is plausible in texture only.",
    "cam": "Only for a linear head on globally averaged features. The map is as coarse as the last feature map.",
    "grad_cam": "Coarse, and it averages gradients over the map: with several objects, or a head that is not pooled, "
    "it can point to places that the model did not use. On a transformer with a class token that mean says least: "
    "there LayerCAM of the same layer found far more (benchmarks/attributions.md). "
    "Below an attention head (attention pooling, `where_and_what`, a gated multiple-instance head) the mean over "
    "places is the wrong weight: a channel's gradient is large at the few places that are looked at and near 0, or of "
    "the other sign, elsewhere, and its mean, diluted by all those, says little of either. The weights of the places "
    "that decide are then applied to places that the head never used. HiResCAM multiplies place by place, and so keeps "
    "to what was attended; at the neck below the attention it is right where Grad-CAM is not (a prototype on 100 test "
    "mammograms of CBIS-DDSM: HiResCAM points at the lesion in .64 of them, Grad-CAM in .37, and at `top_relu` .56 "
    "and .21). At layer `evidence` of the head `where_and_what` both are what was added up. "
    "An empty map means that every place spoke against the class.",
    "grad_cam_plus_plus": "Positive gradients alone make its weights, so it says little about evidence against. The "
    "closed form holds for exp(S) as the score.",
    "xgrad_cam": "Divides by a channel's sum of activation, which is near 0 or negative after SiLU and LayerNorm.",
    "hirescam": "Faithful where the head is linear behind the layer; coarse.",
    "layer_cam": "Early layers give fine but noisy maps.",
    "score_cam": "One forward pass for each channel. The paper's softmax of logits can leave nearly all weight to "
    "a few channels; its authors' code weights by probability and shows more of them. Maps also change with the black "
    "that surrounds what a mask keeps. Channels that have a sign and cancel, as those of layer `evidence` of the head "
    '`where_and_what`, may leave an empty map: give `layer="neck"`.',
    "faster_score_cam": "Keeps the channels that vary most, which need not be those that matter.",
    "ablation_cam": "The paper's relative form divides by the score: near 0 it has no meaning, below 0 it turns over.",
    "guided_grad_cam": "Inherits guided backpropagation's blindness to the class within the region of Grad-CAM.",
    "layer_aggregate": "Deep layers are smooth and early ones noisy; at one scale a layer that finds nothing counts "
    "as much as the others, without scaling the layer with the largest numbers decides.",
    "relevance_cam": "As coarse as the layer, and only as good as the propagation rules for the layers behind it.",
    "xrelevance_cam": "As Relevance-CAM; the sum of a channel's activation, by which it divides, can be near 0.",
    "lrp": "A family, not one method: state rule, stabiliser and how norms, gates and attention are passed. alpha-beta "
    "and z+ on every layer hardly depend on the class; the epsilon rule alone is as noisy as gradients x inputs.",
    "clrp": "A difference of two maps: what both classes share cancels, and so does shared evidence. With two classes "
    "whose logits are each other's negative, the epsilon rule in the last layer leaves nothing.",
    "sglrp": "Weights come from the softmax: for a prediction with probability near 1 they all but vanish. With two "
    "classes whose logits are each other's negative, the epsilon rule in the last layer leaves nothing.",
    "raw_attention": "The same map for every class. One layer's attention is not what flows through the whole "
    "network, and single tokens can collect attention without meaning.",
    "attention_rollout": "The same map for every class; it ignores values, MLPs and signs. Deep models tend to a "
    "uniform map.",
    "transformer_attribution": "Sees attention layers only: what MLPs and values do enters through the gradient alone. "
    "Empty where every gradient speaks against the class.",
    "legrad": "Adds layers as they are, so layers with large gradients decide.",
    "xrai": "Regions come from a segmentation of the image, not of the evidence: a lesion without edges is merged with "
    "its surroundings.",
}


# The text -------------------------------------------------------------------------------------------------------------


def page(methods: Mapping[str, Method] = xai.METHODS) -> str:
    """The whole of docs/methods.md."""
    families = list(dict.fromkeys(m.family for m in methods.values()))
    parts = [
        "# Attribution methods",
        "<!-- Generated by tools/method_catalogue.py; edit the declarations and docstrings instead. -->",
        textwrap.dedent(
            f"""\
            {len(methods)} methods, each called as `xai.explain(model, images, targets, method="name", **parameters)`.
            Every one explains the logit S of the target class (the predicted class where none is given) and returns
            raw maps, float32 `(n, height, width)`. x is the image in [0, 255], A a layer's activation. Costs are passes
            for one image: a *forward* computes the logits, a *gradient* goes forward and back.

            Figures: left a photograph (Chelsea, from scikit-image, CC0), right a generated phantom with a lesion
            (outlined), each for its predicted class. They are drawn from EfficientNet-Lite0 with ImageNet weights; its
            1000 classes see the photograph, and a linear head that was fitted to 200 phantoms sees the phantom. Methods
            for transformers alone are drawn from a DINOv2 ViT-S/14 with linear heads, fitted to photographs of cats and
            dogs and to the phantoms. Colours: from 0 upwards for methods without a sign; red for, blue against, where a
            map is signed; the strongest hundredth of pixels is cut off.

            **Compared by**: a map with a sign cannot be ranked against one without. `xai.evaluate`, the explorer and
            the sanity checks read each method's maps as it declares, unless told another `reading=`: by *magnitude*,
            abs(map), where the sign is that of a derivative (gradients, and their products with pixels), and by the
            *positive* part where what is negative speaks against the class. `explain` returns signed maps, unless it
            is given a `reading` too. For maps that have no sign every reading is the same."""
        ),
        "![the two images](methods/images.png)",
        _overview(methods),
    ]
    for family in families:
        parts.append(f"## {FAMILY_TITLES.get(family, family.capitalize())}")
        parts += [_entry(m) for m in methods.values() if m.family == family]
    return "\n\n".join(parts) + "\n"


def _overview(methods: Mapping[str, Method]) -> str:
    rows = [
        (
            f"[{_cell(m.title)}](#{m.name})",
            FAMILY_TITLES.get(m.family, m.family).lower(),
            "yes" if m.signed else "no",
            m.own_reading({}) if m.signed else "",
            _cell(m.cost),
            ", ".join(m.suits),
            ", ".join(m.libraries[1:]),
        )
        for m in methods.values()
    ]
    return _table(("method", "family", "signed", "compared by", "cost", "suits", "also in"), rows)


def _entry(method: Method) -> str:
    own = method.own_reading({})
    signed = f"signed: positive speaks for the class; compared by {own}" if method.signed else "not signed"
    shift = "" if method.shift_invariant else "not "
    parts = [
        f'<a id="{method.name}"></a>\n\n### {method.title}: `{method.name}`',
        description(method),
        f"![{method.title}](methods/{method.name}.png)",
        f"**Cost** {_text(method.cost)}. **Suits** {' and '.join(SUITS[s] for s in method.suits)}. "
        f"**Map** {signed}; {shift}the same when a constant "
        f"is added to all logits. **Reference** {_links(_text(method.paper))}.",
    ]
    if method.name in FIGURE_PARAMETERS:
        used = ", ".join(f"{k}={v!r}" for k, v in FIGURE_PARAMETERS[method.name].items())
        parts.append(f"The figure was drawn with `{used}`.")
    if method.parameters:
        rows = [(f"`{p.name}`", _allowed(p), _default(p), _cell(p.help)) for p in method.parameters]
        parts.append(_table(("parameter", "values", "default", "meaning"), rows))
    if method.name in PITFALLS:
        parts.append(f"**Watch for** {_text(PITFALLS[method.name])}")
    for library in method.libraries[1:]:
        parts.append(f"**In {library}** {_text(_sentence(ADAPTERS[library, method.name].deviation))}")
    return "\n\n".join(parts)


def description(method: Method) -> str:
    """The formula and what its docstring says more, as Markdown."""
    function = getattr(method.compute, "func", method.compute)  # of a partial
    text = function.__doc__
    if not text:
        raise ValueError(f"the compute function of {method.name!r} has no docstring, which is its catalogue entry.")
    text = re.split(r"\n\s*\n(?:Args|Returns|Raises):\n", inspect.cleandoc(text))[0]
    blocks = [block for paragraph in re.split(r"\n\s*\n", text) for block in re.split(r"\n(?=- )", paragraph)]
    lines = [_links(_text(" ".join(block.split()))) for block in blocks]
    return re.sub(r"\n\n(?=- )", "\n", "\n\n".join(lines)).replace("\n- ", "\n\n- ", 1)


def _sentence(deviation: str) -> str:
    same, _, rest = deviation.partition("none")
    return f"As published{rest}." if not same else f"Not as published: {deviation}."


def _text(text: str) -> str:
    """Plain text as Markdown: signs that would be markup are escaped, outside of `code`."""
    parts = re.split(r"(`[^`]+`)", text.replace("``", "`"))
    return "".join(p if p.startswith("`") else re.sub(r"([*<>\[\]|])", r"\\\1", p) for p in parts)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", _text(text))


def _links(text: str) -> str:
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\d+/[^\s;,)]+)", r"[doi:\1](https://doi.org/\1)", text)


def _allowed(parameter: Parameter) -> str:
    return _cell(parameter.allowed())


def _default(parameter: Parameter) -> str:
    return "none" if parameter.default is None else f"`{parameter.default!r}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


# The figures ----------------------------------------------------------------------------------------------------------


def photograph() -> np.ndarray:
    """Chelsea, the middle square, float32 ``(1, 224, 224, 3)``."""
    from skimage import data

    image = data.chelsea()
    left = (image.shape[1] - image.shape[0]) // 2
    return fit_image(image[:, left : left + image.shape[0]], 224).astype(np.float32)[None]


@cache
def phantoms(split: str, limit: int):
    return xai.load_dataset("phantom", split, 224, limit, task="presence", difficulty="easy")


def lesion() -> tuple[np.ndarray, np.ndarray]:
    """The first phantom of the test split with a lesion: ``(1, 224, 224, 3)`` and its mask ``(224, 224)``."""
    ds = phantoms("test", 8)
    first = int(np.flatnonzero(ds.masks.any(axis=(1, 2)))[0])
    return ds.images[first : first + 1], ds.masks[first]


def fit_head(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """A logistic regression on the frozen features as the two logits of ``model``."""
    from sklearn.linear_model import LogisticRegression

    backbone = keras.Model(model.input, model.get_layer("features").output)
    features = backbone.predict(images, batch_size=32, verbose=0)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    found = LogisticRegression(C=0.01, max_iter=2000).fit((features - mean) / spread, labels)
    kernel = found.coef_[0] / spread
    bias = float(found.intercept_[0] - kernel @ mean)
    half = np.stack([-kernel, kernel], axis=1) / 2
    model.get_layer("logits").set_weights([half, np.array([-bias, bias]) / 2])


@cache
def models(kind: str) -> tuple[keras.Model, keras.Model] | None:
    """A model for the photograph and one for the phantom; None where weights are missing."""
    train = phantoms("train", 200)
    if kind == "cnn":
        photo = xai.build_model("efficientnet_lite0", weights="imagenet", head="imagenet")
        phantom = xai.build_model("efficientnet_lite0", 2, weights="imagenet")
    else:
        kit = Path(os.environ.get("XAI_KIT", ""))
        weights = kit / "weights" / "dinov2_vits14_saliency_fp16.npz"
        if not os.environ.get("XAI_KIT") or not weights.is_file():
            return None
        photo, phantom = (xai.build_model("dinov2_vits14", 2, weights=weights) for _ in range(2))
        animals = xai.load_dataset("folder", "train", 224, 120, data_dir=kit / "cats_dogs")
        fit_head(photo, animals.images, animals.labels)
    fit_head(phantom, train.images, train.labels)
    return photo, phantom


def draw(method: Method) -> bool:
    """Write the figure of one method; False where the weights that it needs are missing."""
    found = models("cnn" if "cnn" in method.suits else "vit")
    if found is None:
        return False
    image, (phantom, mask) = photograph(), lesion()
    parameters = FIGURE_PARAMETERS.get(method.name, {})
    figure = Figure(figsize=(5.2, 2.4), dpi=80, layout="constrained")
    for axes, model, x, outline in zip(figure.subplots(1, 2), found, (image, phantom), (None, mask), strict=True):
        found_map = xai.explain(model, x, method=method.name, **parameters)[0]
        shown = draw_map(axes, x[0], found_map, method.signed, outline)
        bar = figure.colorbar(shown, ax=axes, shrink=0.85)
        bar.ax.tick_params(labelsize=6)
        bar.ax.yaxis.get_offset_text().set_fontsize(6)
    figure.suptitle(method.title, fontsize=10)
    save(figure, PICTURES / f"{method.name}.png")
    return True


def draw_images() -> None:
    """Write the figure of the two images."""
    phantom, mask = lesion()
    figure = Figure(figsize=(5.2, 2.4), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(photograph()[0].astype(np.uint8))
    right.imshow(phantom[0].astype(np.uint8))
    right.contour(mask, [0.5], colors="#D55E00", linewidths=0.8)
    for axes, title in ((left, "photograph"), (right, "phantom, its lesion outlined")):
        axes.set_axis_off()
        axes.set_title(title, fontsize=10)
    save(figure, PICTURES / "images.png")


def save(figure: Figure, path: Path) -> None:
    """A PNG with a palette, as many colours as fit into the size allowed."""
    path.parent.mkdir(exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    for colours in (256, 128, 64, 32, 16, 8):
        replace_file(path, lambda p, n=colours: pixels.quantize(n).save(p, format="PNG", optimize=True))
        if path.stat().st_size <= LARGEST:
            return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--figures", nargs="*", metavar="METHOD", help="draw these figures, or all")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the text is not current")
    options = parser.parse_args(arguments)
    text = page()
    if options.check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("current" if current else f"{PAGE} is not current; run python tools/method_catalogue.py")
        return 0 if current else 1
    write_text(PAGE, text)
    if options.figures is None:
        return 0
    chosen = [xai.METHODS[name] for name in options.figures or xai.METHODS]
    draw_images()
    for method in chosen:
        start = time.perf_counter()
        drawn = draw(method)
        took = f"{time.perf_counter() - start:.1f} s" if drawn else "left as it is: XAI_KIT names no weights"
        print(f"{method.name}: {took}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
