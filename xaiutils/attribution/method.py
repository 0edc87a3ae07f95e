"""What a method declares: `METHODS` feeds `explain`, the panel, the notebooks' parameters, the docs and the tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import Network
from xaiutils.graph.passes import check_gradient
from xaiutils.graph.precision import computing_in
from xaiutils.map_reading import READINGS
from xaiutils.registry import Parameter, Registry

# Function (images, targets) -> for each of the layers that it was made for, the activation and its signal.
Signals = Callable[[np.ndarray, np.ndarray], list[tuple[Any, Any]]]
SignalPass = Callable[[Network, Sequence[str]], Signals]  # (network, paths of layers) -> that function


_SIDE = 224  # of images, where a model takes any size


@dataclass(frozen=True)
class Method:
    """One attribution method.

    ``compute(network, images, targets, batch_size, **parameters)`` returns float32 maps ``(n, height, width)`` from
    checked float32 images and int32 targets ``(n,)``. ``cost`` is in model passes for one image.

    ``weights(A, signal, **options)``, where a class activation map is known by them, are the weights in its sum over
    the channels of a layer's activation A; ``signals`` makes the pass that gives A and its signal, both ``(n, rows,
    columns, channels)``. Methods with the same pass share it (`xaiutils.attribution.cam.weighted_sum`); `pass_for`
    tells it of given parameters, by ``signals_by(parameters)`` where they decide.

    ``libraries``: the sources that `explain` offers, our own first; `xaiutils.attribution.methods` adds the installed
    ones.

    ``signed``: whether values have a sign at the default parameters; `is_signed` tells it of given ones, by
    ``signed_by(parameters)`` where they decide.

    ``reading``: how maps are read where they are compared with other methods' (`xaiutils.map_reading`); empty: as
    `FAMILY_READINGS` has it. `own_reading` tells it of given parameters, by ``reading_by(parameters)`` where they
    decide. Where maps have no sign every reading is the same.

    ``shift_invariant``: whether maps stay as they are, in values and pattern, when the same constant is added to all
    logits of a softmax, which changes no probability; at the default parameters. `is_shift_invariant` tells it of given
    ones, by ``shift_invariant_by(parameters)`` where they decide. Nothing is claimed of independent sigmoids, whose
    probabilities change, nor of a constant in one member of a mean of models, which is explained by log p: there the
    members' logits take relevance themselves.

    ``total(network, images, targets, batch_size, **parameters)``, where a method has it, returns what its map must sum
    to, ``(n,)``: completeness, which `xaiutils.attribution.completeness` checks.

    ``needs`` is what it needs of a network, a key of `NEEDS`; ``check(network)``, where that does not say all, raises
    ModelError as ``compute`` does at the default parameters, without an image: `check_network`.

    ``precision`` is the least that it needs, empty: as `FAMILY_PRECISIONS` has it. "half": it follows a model that
    computes in half precision; "tf32": gradients, which bear the ten bits that GPUs multiply float32 with; "float32":
    its values add up to the score, or it divides by small differences, so that nothing is rounded to less. `maps`
    computes in it.
    """

    name: str
    title: str
    family: str
    paper: str
    signed: bool
    cost: str
    compute: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    suits: tuple[str, ...] = ("cnn", "vit")
    weights: Callable[..., Any] | None = None
    signals: SignalPass | None = None
    signals_by: Callable[[Mapping[str, Any]], SignalPass] | None = None
    libraries: tuple[str, ...] = ("xaiutils",)
    total: Callable[..., np.ndarray] | None = None
    signed_by: Callable[[Mapping[str, Any]], bool] | None = None
    reading: str = ""
    reading_by: Callable[[Mapping[str, Any]], str] | None = None
    shift_invariant: bool = True
    shift_invariant_by: Callable[[Mapping[str, Any]], bool] | None = None
    needs: str = "gradient"
    check: Callable[[Network], object] | None = None
    precision: str = ""

    def maps(
        self, network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **parameters: Any
    ) -> np.ndarray:
        """``compute``, in the precision that the method needs."""
        with computing_in(self.own_precision):
            return self.compute(network, images, targets, batch_size, **parameters)

    def pass_for(self, parameters: Mapping[str, Any]) -> SignalPass | None:
        """The pass that gives an activation and its signal with these parameters."""
        return self.signals if self.signals_by is None else self.signals_by(self._filled(parameters))

    @property
    def own_precision(self) -> str:
        """The precision that the method needs, one of `xaiutils.graph.precision.PRECISIONS`."""
        return self.precision or FAMILY_PRECISIONS[self.family]

    def is_signed(self, parameters: Mapping[str, Any]) -> bool:
        """Whether maps made with these parameters (defaults where not given) have values of both signs."""
        given = self._filled(parameters)
        if given.get("reading", "signed") != "signed":
            return False
        if self.signed_by is not None:
            return self.signed_by(given)
        return given["reduction"] == "sum" if "reduction" in given else self.signed

    def own_reading(self, parameters: Mapping[str, Any]) -> str:
        """The reading by which maps made with these parameters (a ``reading`` among them, which then is that) are
        compared, unless the caller says another."""
        given = self._filled(parameters)
        if "reading" in given:
            return given["reading"]  # they were read when they were made
        if self.reading_by is not None:
            return self.reading_by(given)
        return self.reading or FAMILY_READINGS[self.family]

    def is_shift_invariant(self, parameters: Mapping[str, Any]) -> bool:
        """Whether maps made with these parameters ignore a constant added to all logits."""
        if self.shift_invariant_by is None:
            return self.shift_invariant
        return self.shift_invariant_by(self._filled(parameters))

    def _filled(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {p.name: p.default for p in self.parameters} | dict(parameters)


# Filled by `xaiutils.attribution.methods`; here, so that a method which builds on another one can look it up.
METHODS: Registry[Method] = Registry("method")


def own_reading(method: str | None, parameters: Mapping[str, Any] | None = None) -> str:
    """The reading that a method of `METHODS` declares for ``parameters``; of any other map, which may be anything, its
    magnitude."""
    known = METHODS.get(method) if method is not None else None
    return "magnitude" if known is None else known.own_reading(parameters or {})


def base_is_signed(parameters: Mapping[str, Any]) -> bool:
    """Whether the maps of the method named ``base``, as ``base_reading`` reads them, have a sign."""
    return parameters["base_reading"] == "signed" and METHODS[parameters["base"]].is_signed(
        parameters["base_parameters"]
    )


def base_is_shift_invariant(parameters: Mapping[str, Any]) -> bool:
    """Whether the maps of the method named ``base`` ignore a constant added to all logits."""
    return METHODS[parameters["base"]].is_shift_invariant(parameters["base_parameters"])


# What a method may need of a network beside its outputs: a gradient by the image, layers with a map, layers with rules,
# or attention layers; and what refuses a network that lacks it.
NEEDS: dict[str, Callable[[Network], object]] = {
    "nothing": lambda network: None,
    "gradient": check_gradient,
    "layers": lambda network: network.cam_layers(),
    "rules": lambda network: kinds(network, "LRP"),
    "attention": attention_steps,
}


def check_network(method: Method, network: Network) -> None:
    """ModelError where a method cannot explain a network at its default parameters: why, and what to use instead."""
    if None in network.size_traced:
        network.trace_shapes((_SIDE, _SIDE))
    (method.check or NEEDS[method.needs])(network)
    if method.needs == "rules":
        check_gradient(network)


PER_IMAGE = {"baseline_image": 4, "segments": 3}  # parameters that may have one entry for each image, and its axes then


def of_members(parameters: Mapping[str, Any], members: np.ndarray, n: int) -> dict[str, Any]:
    """Parameters for the images ``members`` of n: of `PER_IMAGE`, theirs alone."""

    def own(name: str, value: Any) -> Any:
        of_each = isinstance(value, np.ndarray) and value.ndim == PER_IMAGE.get(name) and len(value) == n > 1
        return value[members] if of_each else value

    return {name: own(name, value) for name, value in parameters.items()}


FAMILY_TITLES = {
    "gradients": "Gradients",
    "backprop": "Modified backpropagation",
    "perturbation": "Perturbation",
    "cam": "Class activation maps",
    "relevance": "Layer-wise relevance propagation",
    "attention": "Attention",
    "regions": "Regions",
}

# The reading by which a family's maps are compared.
FAMILY_READINGS = {
    # The sign of a derivative is the way in which the pixel would have to change (brighter, darker), and that of its
    # product with the pixel also depends on the baseline: on dark evidence it is negative. What matters is the size.
    "gradients": "magnitude",
    "backprop": "magnitude",
    # What a positive value adds to the score of the class, a negative one takes from it: evidence is what is positive.
    "perturbation": "positive",
    "cam": "positive",
    "relevance": "positive",
    "attention": "positive",
    "regions": "positive",
}

FAMILY_PRECISIONS = {
    "gradients": "tf32",
    "backprop": "float32",
    "perturbation": "half",
    "cam": "half",
    "relevance": "float32",
    "attention": "tf32",
    "regions": "tf32",
}

SCORES = ("logit", "probability")  # of the target, for methods that hide pixels

# Parameters that mean the same wherever they occur.
SEED = Parameter("seed", int, 0, "seed of the random draws", low=0)
LAYER = Parameter("layer", str, "", "layer whose activation is read; empty: the last feature map or token grid")
REDUCTION = Parameter(
    "reduction",
    str,
    "max_abs",
    "how the three colour channels become one: largest or summed absolute value, or the signed sum",
    choices=("max_abs", "sum_abs", "sum"),
)
# Of methods whose values share out the score: the sum over channels keeps it, and the sign.
SHARES = replace(REDUCTION, default="sum")
BASE_READING = Parameter(
    "base_reading",
    str,
    "signed",
    "how the base's maps are read first: as they are, their positive part, or their magnitude",
    choices=READINGS,
)
