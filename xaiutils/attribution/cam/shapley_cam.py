"""ShapleyCAM: Grad-CAM with the curvature of the score, which is its second-order Shapley value."""

from collections.abc import Sequence

from xaiutils.attribution.cam.gradient_cams import grad_cam_weights
from xaiutils.attribution.cam.weighted_sum import cam_of_weights, relu_option
from xaiutils.attribution.method import Signals
from xaiutils.backend import tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import TARGETS, class_scores, forward
from xaiutils.graph.tiers import tiered


def shapley_cam_weights(A: tf.Tensor, s: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k the spatial mean of (g - H A / 2)_k, H the Hessian of the score by A (Cai 2025,
    arXiv:2501.06261).

    g - H A / 2 is each element's Shapley value over A, to second order, in the game in which elements are set to 0.
    Where the layers behind are linear, or ReLU alone, H is 0 and the map that of Grad-CAM; with one pooled linear head
    it is HiResCAM too. The paper has another utility (ReST) beside the logit; here it is the logit S, as everywhere.
    ``relu=False`` gives a signed map.
    """
    return grad_cam_weights(A, s)


def activations_and_shapley_values(network: Network, layers: Sequence[str]) -> Signals:
    """Function (images, targets) -> each layer's activation A and g - H A / 2, ``(n, rows, columns, channels)``.

    Several layers are the players of one game: H A then holds what one does to the gradient of the other.
    """

    def build():
        def run(images, targets):
            tape, bending = (tf.GradientTape(watch_accessed_variables=False) for _ in range(2))

            def watch(x):
                tape.watch(x)
                bending.watch(x)

            with bending:
                with tape:
                    scores, found = forward(network, images, layers, watch)
                    total = tf.reduce_sum(class_scores(network, scores, targets, "logit"))
                slopes = tape.gradient(total, found)
                products = [g * tf.stop_gradient(A) for g, A in zip(slopes, found, strict=True)]
                along = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in products])
            try:
                bends = bending.gradient(along, found, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            except LookupError as error:
                raise ModelError(
                    f"TensorFlow has no second derivative of an operation in the model ({error}); use grad_cam."
                ) from error
            shares = [g - bend / 2 for g, bend in zip(slopes, bends, strict=True)]
            rows = zip(layers, found, shares, strict=True)
            return [tuple(tf.cast(network.to_grid(path, x), tf.float32) for x in pair) for path, *pair in rows]

        return tiered(network, run, [network.image_spec, TARGETS])

    stored = tuple(network.field(layer).stored for layer in layers)
    return network.compiled(("activations and shapley values", tuple(layers), stored), build)


SHAPLEY_CAM = cam_of_weights(
    "shapley_cam",
    "ShapleyCAM",
    shapley_cam_weights,
    "Cai 2025, arXiv:2501.06261",
    (relu_option(True),),
    cost="2 gradients",
    signals=activations_and_shapley_values,
)
