"""Attribution of an embedding: which pixels make this image similar to another one, instead of to a class?

Any method of `METHODS` explains a similarity when it is given the model that `similarity_model` makes.
"""

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError
from xaiutils.graph.passes import batches
from xaiutils.images import check_images
from xaiutils.models.wrapped import WrappedModel

SIMILARITIES = ("cosine", "dot")


def similarity_model(
    model: keras.Model,
    references: np.ndarray,
    layer: str = "",
    similarity: str = "cosine",
    batch_size: int = 32,
) -> keras.Model:
    """The model whose logit k is the similarity of the image's embedding to that of reference k.

    Its target k is reference k; grad_cam of it is Grad-CAM with a similarity as the score, the form for a pair of
    images; `xaiutils.beyond_maps.triplet_maps` has the weights of Chen et al. 2020.

    Args:
        model: a functional or built Sequential Keras model. Its layers serve in the new model too: weights are shared,
            and training either changes both.
        references: images ``(k, height, width, C)`` in [0, 255] as the model takes them, or embeddings ``(k, width)``,
            such as the mean embedding of a class. They are read now and stay as they are.
        layer: name of the layer of ``model`` whose output ``(n, width)`` is the embedding; empty: the layer
            "features" that `xaiutils.build_model` makes, or else what the last Dense layer reads.
        similarity: "cosine", in [-1, 1], or "dot", the inner product of the embeddings.
        batch_size: reference images in one pass.

    Returns:
        A model from images to similarities ``(n, k)``, which ends in a bias-free Dense layer "logits". With one
        reference there is a second logit, the negative of the first, since one unit alone would be read as the two
        classes (-z, z) and its target 0 would be the opposite of the reference.

        A similarity is no log-odds, so its probabilities mean nothing: leave methods and metrics that use them at
        their "logit" options (score_cam at its default, ``weighting="softmax"``).

    Raises:
        ModelError: no such layer, or no embedding. ValueError: references of another shape, or of length 0.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity={similarity!r}; expected one of {', '.join(SIMILARITIES)}.")
    embedding = _embedding(model, layer)
    width = embedding.shape[-1]
    given = np.asarray(references, np.float32)
    if given.ndim == 4:
        vectors = embeddings(model, given, layer, batch_size)
    elif given.ndim == 2 and given.shape[1] == width and len(given):
        vectors = given
    else:
        raise ValueError(
            f"references has shape {given.shape}; expected images (k, height, width, C) or embeddings (k, {width})."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (similarity == "cosine" and not lengths.all()):
        wrong = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
        raise ValueError(f"references {wrong.tolist()} have an embedding of length 0, or one that is not finite.")
    if similarity == "cosine":
        vectors = vectors / lengths
        embedding = keras.layers.UnitNormalization(name="unit_length")(embedding)
    if len(vectors) == 1:
        vectors = np.concatenate([vectors, -vectors])
    name = "similarities" if layer == "logits" else "logits"  # names in a model are unique
    logits = keras.layers.Dense(len(vectors), use_bias=False, name=name, dtype="float32")
    outputs = logits(embedding)
    logits.set_weights([vectors.T])
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_similarity")


def no_embedding(model: keras.Model) -> str:
    """Why a model has no embedding that is found by itself, or ""."""
    try:
        _embedding(model, "")
    except ModelError as error:
        return str(error)
    return ""


def embeddings(model: keras.Model, images: np.ndarray, layer: str = "", batch_size: int = 32) -> np.ndarray:
    """Embeddings ``(n, width)`` float32 of images ``(n, height, width, C)`` in [0, 255], as `similarity_model` takes
    them from ``layer``. Raises as it does."""
    encoder = keras.Model(model.inputs[0], _embedding(model, layer))
    size = model.inputs[0].shape[1:3]
    images = check_images(np.asarray(images, np.float32), None if None in size else size, model.inputs[0].shape[-1])
    run = tf.function(lambda batch: encoder(batch, training=False), reduce_retracing=True, autograph=False)
    parts = [run(images[b]) for b in batches(len(images), batch_size, "embeddings")]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]).astype(np.float32)


def _embedding(model: keras.Model, layer: str) -> keras.KerasTensor:
    """The symbolic tensor ``(n, width)`` that the layer gives, or that the last Dense layer reads."""
    if isinstance(model, WrappedModel):
        return _within_core(model, layer)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelError(f"{type(model).__name__} is not a functional or built Sequential Keras model of one input.")
    names = [x.name for x in model.layers]
    dense = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
    if not layer and "features" not in names and not dense:
        raise ModelError("the model has no Dense layer whose input could be the embedding; give layer=.")
    if layer and layer not in names:
        raise ModelError(f"layer {layer!r} is not among the model's own: {', '.join(names[-12:])}.")
    if layer or "features" in names:
        chosen = model.get_layer(layer or "features")
        tensor = chosen.output
    else:
        chosen = dense[-1]
        tensor = chosen.input
    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) != 2 or shape[-1] is None:
        raise ModelError(f"at layer {chosen.name!r} there is no embedding (n, width), but the shape {shape}.")
    return tensor


def _within_core(model: WrappedModel, layer: str) -> keras.KerasTensor:
    """The embedding of a user's own model, of the images that it is wrapped for."""
    tensors, seen = [model.outputs[0]], set()
    embedding = _embedding(model.core, layer)
    inner = keras.Model(model.core.inputs, embedding)
    while tensors:
        tensor = tensors.pop()
        operation, node, _ = tensor._keras_history
        read = operation._inbound_nodes[node].input_tensors
        if operation is model.core:
            return inner(read if len(read) > 1 else read[0])
        tensors += [x for x in read if id(x) not in seen]
        seen |= {id(x) for x in read}
    raise ModelError(f"{model.name} does not call its core as a layer, so its embedding is not known.")
