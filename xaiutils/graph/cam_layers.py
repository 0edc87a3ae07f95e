"""Which layers a class activation map reads.

A map of one layer shows all of a score only if the score goes through that layer alone. By default these are the
deepest feature maps that every path from the image to the logits passes: one, as a rule; several, where branches, or
several calls of one backbone, join after their pooling. The maps of several are added.
"""

import re
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import FlatGraph, ModelError, Step
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.layers.table import HELD, has_learned_weights, layer_type
from xaiutils.graph.place_tracing import field_at, field_of, spatial_layers, why_no_field


def cam_layers(graph: FlatGraph, name: str = "") -> list[str]:
    """Paths of the layers whose maps are added: ``name`` alone, or by default those that all of the score goes through.

    Raises ModelError where there are none: no feature map, axes that are not known, or a path around all of them.
    """
    if name:
        return [_named(graph, name)]
    return graph.compiled(("CAM layers", graph.size_traced), lambda: _default(graph))


def _named(graph: FlatGraph, name: str) -> str:
    step = graph.step(_own_name(graph, name))
    if field_of(graph, step) is None or step not in graph.steps_to_logits:
        why = why_no_field(graph, step) or "the logits do not depend on it, or its places are mixed"
        raise ModelError(
            f"layer {step.path!r} has the output shape {graph.shapes[step.outputs[0]]} and no map of the image: "
            f"{why}. Choose one of {', '.join(spatial_layers(graph)[-12:])}."
        )
    told = graph.compiled(("warned of a way around",), set)
    if step.path not in told and not _is_complete(graph, step):
        told.add(step.path)
        warnings.warn(
            f"part of the score goes around layer {step.path!r}, so its map shows only part of the evidence. All of "
            f"the score goes through {_complete_before(graph) or 'no single layer'}.",
            stacklevel=2,
        )
    return step.path


def _own_name(graph: FlatGraph, name: str) -> str:
    """The layer that ``name`` is for: of Keras' ResNets "layer1" to "layer4", PyTorch's names of the stages, are the
    last blocks of conv2 to conv5; of its EfficientNets "block1" to "block7" are the stages' ends."""
    names = [step.path.split("/")[-1] for step in graph.steps]
    if name in names or not re.fullmatch(r"layer[1-4]|block[1-7]", name):
        return name
    of_resnet = rf"conv{int(name[-1]) + 1}_block\d+_out"
    stage = re.compile(of_resnet if name.startswith("layer") else rf"{name}[a-z]_\w+")
    return next(filter(stage.fullmatch, reversed(names)), name)


def _is_complete(graph: FlatGraph, step: Step) -> bool:
    """Whether the whole score goes through a layer; of tokens that enter an attention layer, the convention."""
    enters = {producer for a in attention_steps(graph) for producer in graph.producers(a)}
    return step in enters or cuts(graph, {step})


def _complete_before(graph: FlatGraph) -> str:
    try:
        return ", ".join(repr(path) for path in cam_layers(graph))
    except ModelError:
        return ""


def cuts(graph: FlatGraph, steps: Iterable[Step], end: Step | None = None) -> bool:
    """Whether every path from the image to the logits (or to the step ``end``) goes through one of ``steps``."""
    return not _open_ends(graph, end, set(steps).__contains__)


def bottlenecks(graph: FlatGraph) -> set[Step]:
    """The steps that alone `cuts` the image from the logits, found in one walk: behind them nothing reads what was made
    of the image before."""
    steps = graph.steps_to_logits
    last = {key: number for number, step in enumerate(steps) for key in step.reads}
    made, found, open_until = {graph.input_key}, set(), last.get(graph.input_key, -1)
    for number, step in enumerate(steps):
        if made.isdisjoint(step.reads):
            continue
        if open_until <= number:
            found.add(step)
        made.update(step.outputs)
        open_until = max([open_until, *(last.get(key, -1) for key in step.outputs)])
    return found


def _open_ends(graph: FlatGraph, end: Step | None, stops: Callable[[Step], bool]) -> list[Step]:
    """The steps that read the image and that the walk back from ``end`` reaches without passing a step that stops."""
    open_steps, seen, reached = [end or graph.steps_to_logits[-1]], set(), []
    while open_steps:
        step = open_steps.pop()
        if step in seen or (step is not end and stops(step)) or layer_type(step.operation).kind == HELD:
            continue
        seen.add(step)
        for producer in graph.producers(step):
            if producer is None:
                reached.append(step)
            else:
                open_steps.append(producer)
    return reached


def _default(graph: FlatGraph) -> list[str]:
    steps = graph.steps_to_logits
    before = ancestors(graph)
    learned = {s for s in steps if has_learned_weights(s.operation)}
    learns = {s for s in steps if s in learned or before[s] & learned}
    attention = set(attention_steps(graph))
    excluded: set[Step] = set()
    while True:
        cut, around, passed = _cut(graph, learns, before, attention, excluded)
        inner = [s for s in cut if any(other in before[s] for other in cut)]
        if not inner:
            break
        excluded.update(inner)  # one lies after another: all its evidence is in the other's
    if around or not cut:
        _refuse(graph, cut, around)
    _refuse_hidden_attention(graph, cut, passed)
    return [step.path for step in sorted(cut, key=steps.index)]


def ancestors(graph: FlatGraph) -> dict[Step, set[Step]]:
    """The steps that lead to each step before the logits."""
    found: dict[Step, set[Step]] = {}
    for step in graph.steps_to_logits:
        found[step] = set()
        for producer in graph.producers(step):
            if producer is not None:
                found[step] |= {producer} | found[producer]
    return found


def _cut(
    graph: FlatGraph, learns: set[Step], before: dict[Step, set[Step]], attention: set[Step], excluded: set[Step]
) -> tuple[list[Step], list[Step], list[Step]]:
    """The first maps on the way back from the logits, the steps that read the image without one, and the token layers
    that were passed."""
    cut: dict[Step, None] = {}
    passed = []

    def stops(step: Step) -> bool:
        if step in excluded or step not in learns or field_of(graph, step) is None:
            return False
        if len(graph.shapes[step.outputs[0]]) == 4:
            cut[step] = None
            return True
        read = [a for a in graph.steps_to_logits if a in attention and (a is step or a in before[step])]
        if read:
            chosen = _tokens_read(graph, step, read[-1])
            if chosen is not None and chosen not in excluded:
                cut[chosen] = None
                return True
        passed.append(step)
        return False

    around = _open_ends(graph, None, stops)
    return list(cut), around, passed


def _tokens_read(graph: FlatGraph, end: Step, attention: Step) -> Step | None:
    """The tokens that a map of a transformer reads, of those that lead to ``end``: what enters its last attention
    layer, if patches reach the logits that way alone (a class token); otherwise the residual stream before it."""
    (entering, *_) = graph.producers(attention)
    if entering is None or field_of(graph, entering) is None:
        return None
    if cuts(graph, {entering}, end):
        return entering
    before = [s for s in graph.steps_to_logits[: graph.steps_to_logits.index(entering)] if field_of(graph, s)]
    stream = next((s for s in reversed(before) if cuts(graph, {s}, end)), None)
    if stream is None or _carries_all(graph, entering, stream):
        return entering
    return stream


def _carries_all(graph: FlatGraph, entering: Step, stream: Step) -> bool:
    """Whether the patches of ``stream`` count through ``entering`` alone: with that held, changing them changes
    nothing of what the head reads."""

    def look() -> bool:
        image = tf.random.stateless_uniform((1, *graph.shapes[graph.input_key][1:]), (0, 1), 0, 255)
        keys = [stream.outputs[0], entering.outputs[0]]
        with_patches, held = graph.run({graph.input_key: image}, keys)
        patches = field_at(graph, stream.path).mask
        noise = tf.cast(np.where(patches, np.random.default_rng(0).normal(size=with_patches.shape), 0), held.dtype)
        read = graph.steps_to_logits[-1].reads[:1]
        features = [
            graph.run({graph.input_key: image, keys[0]: x, keys[1]: held}, read)[0]
            for x in (with_patches, with_patches + noise)
        ]
        before, after = (tf.cast(x, tf.float32).numpy() for x in features)
        return bool(np.allclose(before, after, rtol=1e-4, atol=1e-5))

    return graph.compiled(("carries all", entering.path, stream.path), lambda: {"answer": look()})["answer"]


def _refuse(graph: FlatGraph, cut: list[Step], around: list[Step]) -> None:
    maps = spatial_layers(graph)
    learned = [s for s in graph.steps_to_logits if getattr(s.operation, "weights", None)]
    if cut:
        raise ModelError(
            f"no layers with a map carry the whole score: beside {', '.join(repr(s.path) for s in cut)} a part goes "
            f"from {', '.join(repr(s.path) for s in around[:4])} to the logits around all feature maps. Give layer=, "
            "for the part that goes through it, or use a gradient method or occlusion."
        )
    lost = [(s, why_no_field(graph, s)) for s in learned]
    lost = [(s, why) for s, why in lost if why]
    if lost:
        raise ModelError(
            f"the feature maps cannot be placed in the image: {lost[0][1]}. Use a gradient method or occlusion"
            f"{', or layer=, one of ' + ', '.join(maps[-12:]) if maps else ''}."
        )
    raise ModelError(
        "the model shows no layer with a feature map (n, h, w, channels) that its score goes through (a SavedModel "
        "shows none of its layers), and class activation maps need one; use a gradient method or occlusion."
    )


def _refuse_hidden_attention(graph: FlatGraph, cut: list[Step], passed: list[Step]) -> None:
    tokens = [s.path for s in graph.steps_to_logits if s in passed and getattr(s.operation, "weights", None)]
    if len(tokens) > 2 and all(len(graph.shapes[s.outputs[0]]) == 4 for s in cut):
        raise ModelError(
            "the model goes on with tokens after its last feature map, and it is not known which layer's tokens "
            f"a class activation map should read; give layer=, one of {', '.join(tokens[-12:])}."
        )
