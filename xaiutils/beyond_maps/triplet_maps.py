"""Maps of an embedding by the triplets of a training set: no class and no gradient is needed for a new image.

Chen et al. 2020, Adapting Grad-CAM for embedding networks, WACV, arXiv:2001.06538: channels are weighted by the
gradients of a triplet loss, averaged over a training image's triplets, and a new image takes the weights of the
training images nearest to it. Ours: all triplets of the images given, in place of a sample; the anchor's branch alone;
and the gradient's sign turned, so that positive channels bring the image to its own class and away from others.
"""

from typing import NamedTuple

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_weights
from xaiutils.backend import keras
from xaiutils.beyond_maps.embedding import embeddings, similarity_model
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, activations_and_gradients, batches
from xaiutils.images import check_images


class TripletWeights(NamedTuple):
    """What a training set says of channels: its ``positions``, the images that have a triplet with a loss; their
    ``embeddings`` float32 ``(a, width)`` of unit length, and ``weights`` ``(a, channels)`` of the layer ``layer``."""

    positions: np.ndarray
    embeddings: np.ndarray
    weights: np.ndarray
    layer: str


def triplet_weights(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    margin: float = 0.2,
    layer: str = "",
    batch_size: int = 32,
) -> TripletWeights:
    """The weights of training images ``(n, height, width, C)`` in [0, 255] with ``labels`` ``(n,)``.

    The loss of a triplet is max(0, margin + |a - p|^2 - |a - n|^2) of embeddings of unit length, as `embeddings` takes
    them from the model; 0.2 is FaceNet's margin. ``layer``: whose channels are weighted; empty: Grad-CAM's own.
    Raises ValueError where no triplet has a loss, as of a single class.
    """
    labels = np.asarray(labels)
    vectors = embeddings(model, images, "", batch_size)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    pulls = np.stack([_pull(vectors, labels, i, margin) for i in range(len(vectors))])
    positions = np.flatnonzero(np.linalg.norm(pulls, axis=1) > 0)
    if not len(positions):
        raise ValueError(f"no triplet of these {len(images)} images has a loss; give more classes, or a larger margin.")
    asked = similarity_model(model, pulls[positions])
    network = Network.of(asked)
    path = _one_layer(network, layer)
    run, chosen = activations_and_gradients(network, [path]), np.asarray(images, np.float32)[positions]
    targets = np.arange(len(positions), dtype=np.int32)
    found = [run(chosen[b], targets[b])[0][1].numpy() for b in batches(len(chosen), batch_size, "triplets")]
    lengths = np.linalg.norm(pulls[positions], axis=1, keepdims=True)  # the similarity's references have length 1
    weights = np.concatenate(found).mean(axis=(1, 2)) * lengths
    return TripletWeights(positions, vectors[positions], weights, path)


def triplet_maps(
    model: keras.Model, images: np.ndarray, known: TripletWeights, nearest: int = 5, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Maps ``(n, height, width)`` float32 of images ``(n, height, width, C)`` in [0, 255]: relu(sum_k w_k A_k), w the
    mean weights of the ``nearest`` training images; and their positions ``(n, nearest)``, the nearest first."""
    if not 1 <= nearest <= len(known.positions):
        raise ValueError(f"nearest={nearest}; expected 1 to {len(known.positions)}, the images that have weights.")
    network = Network.of(model)
    images = check_images(np.asarray(images, np.float32), model.inputs[0].shape[1:3], network.channels)
    order = np.argsort(-(embeddings(model, images, "", batch_size) @ known.embeddings.T), axis=1, kind="stable")
    close = order[:, :nearest]
    weights = known.weights[close].mean(axis=1)

    def weigh(batch: np.ndarray, rows: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
        return activation(network, path, batch, batch_size), weights[rows]

    path = _one_layer(network, known.layer)
    maps = maps_of_weights(network, images, np.arange(len(images)), batch_size, [path], weigh, relu=True)
    return maps, known.positions[close]


def _pull(vectors: np.ndarray, labels: np.ndarray, i: int, margin: float) -> np.ndarray:
    """Minus the gradient, by the embedding of image ``i``, of the mean loss of its triplets that have one."""
    apart = ((vectors - vectors[i]) ** 2).sum(axis=1)
    own, other = labels == labels[i], labels != labels[i]
    own[i] = False
    active = margin + apart[own][:, None] - apart[other][None] > 0
    if not active.any():
        return np.zeros_like(vectors[i])
    total = active.sum(axis=1) @ vectors[own] - active.sum(axis=0) @ vectors[other]
    return (2 * total / active.sum()).astype(np.float32)


def _one_layer(network: Network, layer: str) -> str:
    paths = network.cam_layers(layer)
    if len(paths) > 1:
        raise ValueError(f"the score goes through {', '.join(paths)} together; give layer=, one of them.")
    return paths[0]
