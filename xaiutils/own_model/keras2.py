"""Files of Keras 2 (TensorFlow up to 2.15), read with Keras 3.

Keras 3 reads the weights of Keras 2, but stumbles over its configurations: arguments that are gone (``groups`` of a
depthwise convolution, which every MobileNet and EfficientNet has), policies as objects, tensors among keyword
arguments, and operations of TensorFlow as layers (``preprocess_input`` on a symbolic tensor makes them). They are put
into the form that Keras 3 reads; an argument that changes what is computed is refused by name.
"""

import inspect
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.legacy.saving import saving_options, saving_utils
from keras.src.saving import serialization_lib

from xaiutils.backend import keras, tf

# Arguments that are gone from Keras 3, and the values by which they say nothing; None: whatever they are.
_GONE: dict[str, tuple[Any, ...] | None] = {
    "groups": (1,),
    "time_major": (False,),
    "implementation": None,
    "fused": None,
    "renorm": (False,),
    "renorm_clipping": None,
    "renorm_momentum": None,
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "ragged": (False,),
    "sparse": (False,),
    "query_shape": None,
    "key_shape": None,
    "value_shape": None,
    "dynamic": (False,),
    "noise_shape": (None,),
    "trainable": None,
    "synchronized": None,
    "experimental_autocast": None,
    "is_graph_network": None,
}
_OF_EVERY_LAYER = frozenset({"name", "dtype", "trainable", "autocast", "batch_shape", "batch_input_shape"})
# Of weights that are read anyway, and of training.
_TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")
_MODELS = ("Functional", "Model", "Sequential")


# Functions of TensorFlow's own name space that neither touch files nor run code; of tf.math, tf.nn and tf.image all do.
_ALONE = ("cast", "concat", "stack", "unstack", "split", "reshape", "transpose", "squeeze", "expand_dims", "identity",
          "clip_by_value", "convert_to_tensor", "reverse", "tile", "repeat", "pad", "gather", "zeros_like", "ones_like",
          "shape", "where", "broadcast_to")  # fmt: skip


class OldOperation(keras.layers.Layer):
    """An operation of TensorFlow that Keras 2 kept as a layer: the function ``tf.<function>`` of tensors."""

    def __init__(self, function: str, **kwargs: Any):
        super().__init__(**kwargs)
        module, _, name = function.rpartition(".")
        if module not in ("math", "nn", "image", "__operators__") and function not in _ALONE:
            raise ValueError(
                f"the model uses tf.{function} as a layer of Keras 2, which is not known here; in the environment that "
                "made the file, write a SavedModel with model.export(folder), and give that folder."
            )
        self.function, self.compute = function, _OPERATORS.get(function) or _tf_function(module, name)

    def call(self, *args: Any, first: Any = None, **kwargs: Any) -> Any:
        if first is not None:  # a constant before the tensors, as in 1 - x
            args = (first, *args)
        named = {k: v for k, v in kwargs.items() if not (k in ("name", "training") and v is None)}
        return self.compute(*args, **named)


def _tf_function(module: str, name: str) -> Callable[..., Any]:
    return getattr(getattr(tf, module) if module else tf, name)


def _slices(spec: Any) -> Any:
    """Slices as Keras 2 wrote them: ``{"start": ..., "stop": ..., "step": ...}``."""
    if isinstance(spec, Mapping):
        return ... if spec.get("class_name") == "__ellipsis__" else slice(spec["start"], spec["stop"], spec["step"])
    return tuple(_slices(part) for part in spec) if isinstance(spec, list | tuple) else spec


_OPERATORS = {"__operators__.getitem": lambda x, slice_spec: x[_slices(slice_spec)], "__operators__.add": tf.add}


# Layers of keras.applications that are no others' to use.
_OF_APPLICATIONS = {
    "LayerScale": convnext.LayerScale,
    "StochasticDepth": convnext.StochasticDepth,
    "CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
    "Custom>CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
}


def is_keras2(version: Any) -> bool:
    """Whether a file's stated version is older than Keras 3; files without one are."""
    text = version.decode() if isinstance(version, bytes) else str(version or "1")
    return text.split(".")[0] in ("0", "1", "2")


def load_h5(path: Path, custom_objects: Mapping[str, Any], safe: bool) -> keras.Model:
    """The model in a Keras 2 ``.h5`` file, with its weights."""
    with h5py.File(path) as file:
        text = file.attrs["model_config"]
    model = _build(json.loads(text), custom_objects, safe)
    model.load_weights(path)
    return model


def load_zip(path: Path, custom_objects: Mapping[str, Any], safe: bool) -> keras.Model:
    """The model in a Keras 2 ``.keras`` file, with its weights."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        model = _build(json.loads(archive.read("config.json")), custom_objects, safe)
        model.load_weights(archive.extract("model.weights.h5", folder))
    return model


def _build(config: Any, custom_objects: Mapping[str, Any], safe: bool) -> keras.Model:
    known = dict.fromkeys(_OPERATIONS, OldOperation) | _OF_APPLICATIONS | dict(custom_objects)
    with saving_options.keras_option_scope(use_legacy_config=True), serialization_lib.SafeModeScope(safe):
        return saving_utils.model_from_config(_converted(config), custom_objects=known)


def _converted(value: Any) -> Any:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in ("Policy", "PolicyV1"):
        return value["config"]["name"]
    value = {key: _converted(item) for key, item in value.items()}
    if value.get("class_name") == "Sequential" and isinstance(value.get("config"), list):  # before Keras 2.2.3
        value["config"] = {"name": "sequential", "layers": value["config"]}
    if isinstance(value.get("config"), dict) and "class_name" in value:
        value["config"] = _layer_config(value["class_name"], value["config"])
    return value


def _layer_config(name: str, config: dict[str, Any]) -> dict[str, Any]:
    if "name" in config and isinstance(config["name"], str):
        config["name"] = _layer_name(config["name"])
    if name == "InputLayer":
        shape = config.get("batch_input_shape", config.get("batch_shape"))
        return {"batch_shape": shape, "dtype": config.get("dtype"), "name": config.get("name")}
    if name in _MODELS:
        for layer in config["layers"]:  # without these Keras reads it as an old one
            for key in ("module", "registered_name", "build_config"):
                layer.pop(key, None)
        return _sequential_config(config) if name == "Sequential" else _functional_config(config)
    kind = getattr(keras.layers, name, None)
    if kind is None:
        return config
    for key in {"layer", "backward_layer"} & set(config):  # of Bidirectional and TimeDistributed: read as a new one
        config[key] = {"module": "keras.layers", "registered_name": None, **config[key]}
    for key in {"activation", "recurrent_activation"} & set(config):
        if config[key] == "hard_sigmoid":
            config[key] = keras.saving.serialize_keras_object(old_hard_sigmoid)
    taken = set(inspect.signature(kind.__init__).parameters)
    if "kwargs" in taken:
        taken |= _OF_EVERY_LAYER
    config = {key: item for key, item in config.items() if not key.endswith(_TRAINING_ONLY)}
    return {key: item for key, item in config.items() if key in taken or not _is_gone(key, item)}


@keras.saving.register_keras_serializable("xaiutils")
def old_hard_sigmoid(x: Any) -> Any:
    """Keras 2's, of slope 0.2; that of Keras 3 has the slope 1/6. The gates of its older LSTMs have it by default."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _sequential_config(config: dict[str, Any]) -> dict[str, Any]:
    """Layers in a row, with the input that old files state in the first of them as a layer of its own."""
    first = config["layers"][0]
    shape = first["config"].pop("batch_input_shape", None) if first["class_name"] != "InputLayer" else None
    if shape is not None:
        entry = {"class_name": "InputLayer", "config": {"batch_shape": shape, "dtype": "float32", "name": "image"}}
        config["layers"] = [entry, *config["layers"]]
    return config


def _layer_name(name: str) -> str:
    return name.replace("/", "_")  # which Keras 3 keeps for paths


def _is_gone(key: str, value: Any) -> bool:
    """Whether an argument that a layer of Keras 3 does not take says nothing; Keras refuses any other."""
    return key in _GONE and (_GONE[key] is None or value in (_GONE[key] or ()))


def _functional_config(config: dict[str, Any]) -> dict[str, Any]:
    """A graph with the calls of its layers in the form of Keras 3, where a nested model has no call of its own before
    the first."""
    kinds = {layer["name"]: layer["class_name"] for layer in config["layers"]}
    calls = [
        *_references([layer["inbound_nodes"] for layer in config["layers"]]),
        *_references(config["output_layers"]),
    ]
    first = {name: min(node for other, node, _ in calls if other == name) for name in {name for name, *_ in calls}}

    def tensor(name: str, node: int, number: int) -> Any:
        if name not in kinds:  # a list that only looks like a reference
            return [name, node, number]
        node -= first[name] if kinds[name] in _MODELS else 0
        history = {"shape": [], "dtype": "float32", "keras_history": [_layer_name(name), node, number]}
        return {"class_name": "__keras_tensor__", "config": history}

    def output(name: str, node: int, number: int) -> Any:
        if kinds[name] in _MODELS:
            node += (kinds[name] != "Sequential") - first[name]
        return [_layer_name(name), node, number]

    for layer in config["layers"]:
        layer["inbound_nodes"] = [_node(node, tensor) for node in layer["inbound_nodes"]]
        layer["name"] = _layer_name(layer["name"])
    for key, make in (
        ("input_layers", lambda *reference: [_layer_name(reference[0]), *reference[1:]]),
        ("output_layers", output),
    ):
        replaced = _replaced(config[key], make)
        alone = isinstance(replaced, list) and len(replaced) == 1 and _is_reference(replaced[0])
        config[key] = replaced[0] if alone else replaced
    return config


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(isinstance(n, int) and not isinstance(n, bool) for n in value[1:3])
    )


def _references(value: Any) -> Iterator[tuple[str, int, int]]:
    """All references to tensors (layer, call, number) in nested lists and mappings."""
    if _is_reference(value):
        yield value[0], value[1], value[2]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)


def _replaced(value: Any, make: Callable[[str, int, int], Any]) -> Any:
    """The same with each reference replaced by what ``make`` says."""
    if _is_reference(value):
        return make(*value[:3])
    if isinstance(value, list):
        return [_replaced(item, make) for item in value]
    return {k: _replaced(v, make) for k, v in value.items()} if isinstance(value, dict) else value


def _node(node: Any, tensor: Callable[[str, int, int], Any]) -> Any:
    """A layer's call in the form of Keras 3, in which tensors may stand anywhere among the arguments."""
    if isinstance(node, dict):
        return node if set(node) == {"args", "kwargs"} else {"args": [_replaced(node, tensor)], "kwargs": {}}
    calls = [node] if node and isinstance(node[0], str) else node
    kwargs = _replaced(calls[0][3] if calls and len(calls[0]) > 3 else {}, tensor)
    if len(calls) == 1 and calls[0][0] == "_CONSTANT_VALUE":
        return {"args": [], "kwargs": {"first": calls[0][2], **kwargs}}
    tensors = [tensor(*call[:3]) for call in calls]
    return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": kwargs}
