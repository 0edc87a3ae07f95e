"""One map from the class activation maps of several layers."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from xaiutils.attribution.cam.weighted_sum import combination, maps_by_layer
from xaiutils.attribution.method import BASE_READING, METHODS, Method, base_is_shift_invariant, check_network
from xaiutils.graph.cam_layers import bottlenecks
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.layers.table import PADDED, has_learned_weights, layer_type
from xaiutils.graph.network import Network
from xaiutils.map_reading import read_maps
from xaiutils.registry import Parameter, check_parameters

_FUSIONS = ("mean", "max", "product")
_BASES = (
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hirescam",
    "layer_cam",
    "score_cam",
    "faster_score_cam",
    "ablation_cam",
    "relevance_cam",
    "xrelevance_cam",
)


def layer_aggregate(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    base: str,
    layers: list[str],
    fusion: str,
    scale_layers: str,
    base_parameters: dict,
    base_reading: str,
) -> np.ndarray:
    """Fusion of the maps that a CAM method ``base`` makes of several layers, each enlarged to the image.

    ``fusion="mean"``: the mean of the maps, then min-max to [0, 1] for each image, as in the thesis on XRelevance-CAM.
    Before the mean ``scale_layers`` brings the layers' maps of an image to one scale, so that no layer rules:
    "min_max" (default, as the author's code) to [0, 1]; "max_abs" by the largest absolute value, which keeps 0 and
    signs; "none", as the thesis has it in words, leaves them as they are, so that the layer with the largest values
    counts most. ``fusion="max"``: the largest of tanh(2 M / max M), negative M set to 0 (Jiang et al. 2021, LayerCAM,
    who scale the shallow layers only; here all layers are, so that they compare). ``fusion="product"``: the product of
    the maps, negative values set to 0 and each by min-max in [0, 1], then min-max (Domeniconi et al. 2026, RefineCAM,
    arXiv:2605.14641, as pytorch-grad-cam has it): a place counts where every layer says so.

    ``layers`` are paths, by default those of `default_layers`; ``base_parameters`` are parameters of ``base``, without
    ``layer``. ``base_reading``, "signed" as in the thesis, reads each layer's map before it is scaled and fused:
    min-max makes the smallest value 0, and so hides what speaks against the class; of the positive part 0 stays 0.
    """
    if scale_layers != "min_max" and fusion != "mean":
        raise ValueError(
            f"scale_layers={scale_layers!r} is for fusion='mean'; fusion={fusion!r} scales every layer itself."
        )
    method = METHODS[base]
    known = tuple(p for p in method.parameters if p.name != "layer")
    options = check_parameters(f"base_parameters of {base!r}", known, base_parameters)
    paths = list(dict.fromkeys(path for name in layers for path in network.cam_layers(name)))
    paths = paths or default_layers(network)
    maps: Iterator[np.ndarray]
    signals = method.pass_for(options)
    if method.weights is not None and signals is not None:
        given = network, images, targets, batch_size, paths, signals, [combination(method, options)]
        maps = (found for (found,) in maps_by_layer(*given))
    else:
        maps = (method.maps(network, images, targets, batch_size, layer=path, **options) for path in paths)
    # Branches side by side make one map together, as in every CAM.
    beside = [] if layers or attention_steps(network) else network.cam_layers()
    if len(beside) > 1:
        maps = _added(zip(paths, maps, strict=True), beside)
        paths = [path for path in paths if path not in beside[1:]]
    fused = np.full(images.shape[:3], fusion == "product", np.float32)
    for found in maps:
        found = read_maps(found, base_reading)
        if fusion == "max":
            found = np.maximum(found, 0)
            np.maximum(fused, np.tanh(2 * _over_largest(found)), out=fused)
        elif fusion == "product":
            fused *= min_max(np.maximum(found, 0))
        else:
            fused += _SCALINGS[scale_layers](found) / len(paths)
    return fused if fusion == "max" else min_max(fused)


def _added(maps: Iterable[tuple[str, np.ndarray]], beside: list[str]) -> Iterator[np.ndarray]:
    """The maps of layers, those of ``beside`` added to one, which comes last."""
    parts = []
    for path, found in maps:
        if path in beside:
            parts.append(found)
        else:
            yield found
    yield functools.reduce(np.add, parts)


def default_layers(network: Network) -> list[str]:
    """The last layer of each resolution of a CNN that the whole score goes through, from the first convolution on, or
    what enters the attention of each block of a transformer; in order."""
    return network.compiled(("default layers", network.size_traced), lambda: _find_layers(network))


def _find_layers(network: Network) -> list[str]:
    entering = [network.producers(step)[0] for step in attention_steps(network)]
    tokens = [step.path for step in entering if step is not None and network.field_of(step)]
    if tokens:
        return tokens
    last = network.cam_layers()
    stages: dict[tuple[int, int], str] = {}
    narrow = bottlenecks(network)
    started = False
    for step in network.steps_to_logits:
        operation = step.operation
        started |= has_learned_weights(operation)
        field = network.field_of(step) if len(network.shapes[step.outputs[0]]) == 4 else None
        # Padding before a convolution makes a resolution of its own, without being a stage.
        is_stage = started and layer_type(operation).places != PADDED
        if field is not None and is_stage and step in narrow:
            stages[field.grid] = step.path
        if step.path in last:
            break
    return list(dict.fromkeys([*stages.values(), *last]))


def _over_largest(maps: np.ndarray) -> np.ndarray:
    largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)


def min_max(maps: np.ndarray) -> np.ndarray:
    """Each map scaled to [0, 1], a constant one to 0."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)


_SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "min_max": min_max,
    "max_abs": _over_largest,
    "none": lambda maps: maps,
}


def _check(network: Network) -> None:
    default_layers(network)
    check_network(METHODS["xrelevance_cam"], network)


LAYER_AGGREGATE = Method(
    name="layer_aggregate",
    title="Layer aggregate",
    family="cam",
    paper="You 2022, MSc thesis, Imperial College London; maximum: Jiang et al. 2021, LayerCAM, IEEE TIP 30",
    signed=False,
    cost="1 gradient or 1 relevance pass; of other bases their cost for each layer",
    compute=layer_aggregate,
    needs="layers",
    check=_check,
    shift_invariant_by=base_is_shift_invariant,
    parameters=(
        Parameter("base", str, "xrelevance_cam", "the method that makes each layer's map", choices=_BASES),
        Parameter("layers", list, [], "paths of layers; empty: one of each resolution, or every block of a ViT"),
        Parameter("fusion", str, "mean", "mean or product, then min-max; or maximum of scaled maps", choices=_FUSIONS),
        Parameter(
            "scale_layers",
            str,
            "min_max",
            "what each layer's map goes through before the mean; none: the layer with the largest values rules",
            choices=tuple(_SCALINGS),
        ),
        Parameter("base_parameters", dict, {}, "parameters of the base"),
        BASE_READING,
    ),
)
_REFINED = {"base": "grad_cam_plus_plus", "fusion": "product"}
REFINE_CAM = replace(
    LAYER_AGGREGATE,
    name="refine_cam",
    title="RefineCAM",
    paper="Domeniconi, Stramiglio, Lombardi & Salti 2026, arXiv:2605.14641",
    cost="1 gradient; of other bases their cost for each layer",
    check=default_layers,
    parameters=tuple(replace(p, default=_REFINED.get(p.name, p.default)) for p in LAYER_AGGREGATE.parameters),
)
