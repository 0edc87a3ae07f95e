"""A SavedModel folder as a Keras layer: a graph of TensorFlow, of which only inputs and outputs are known."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from xaiutils.backend import keras, tf

_ENDPOINTS = ("serve", "serving_default")  # Keras 3's, TensorFlow's
# Operations that reach outside the graph: a classifier has none of them.
_UNSAFE = frozenset({
    "ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "ImmutableConst", "PyFunc",
    "PyFuncStateless", "EagerPyFunc", "TFRecordDataset", "TextLineDataset", "SaveDataset", "SaveDatasetV2",
    "LoadDataset", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "CreateSummaryFileWriter",
})  # fmt: skip


class SavedModelLayer(keras.layers.TFSMLayer):
    """A signature of a SavedModel as a layer, called with a mapping from the names of its inputs to tensors; it returns
    a mapping from the names of its outputs.

    Args:
        filepath: the folder.
        trusted: load it even where its graph reads or writes files, or calls Python.
        name: of the layer.
    """

    def __init__(self, filepath: str, trusted: bool = False, **kwargs: Any):
        graphs = SavedModel.FromString((Path(filepath) / "saved_model.pb").read_bytes()).meta_graphs
        if not trusted and (found := sorted(_operations(graphs) & _UNSAFE)):
            raise ValueError(
                f"the graph in {filepath} has operations that reach files or Python ({', '.join(found)}); give "
                "trusted=True if you know who made it."
            )
        available = sorted(name for graph in graphs for name in graph.signature_def if not name.startswith("__"))
        if not available:
            raise ValueError(f"{filepath} has no signature to call; write it with model.export(folder).")
        endpoint = next((name for name in _ENDPOINTS if name in available), available[0])
        # The graph takes float32 whatever policy is set: Keras would cast what it is given to bfloat16.
        super().__init__(filepath, call_endpoint=endpoint, **{"dtype": "float32", **kwargs})
        self.call_endpoint_fn = self._reloaded_obj.signatures[endpoint]  # Keras prefers an attribute of this name
        self.specs: dict[str, tf.TensorSpec] = self.call_endpoint_fn.structured_input_signature[1]

    def _add_existing_weight(self, weight: Any) -> None:
        """Nothing: Keras would list copies of the variables, which the graph does not read."""

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        return self.call_endpoint_fn(**inputs)


def _operations(graphs: Iterable[Any]) -> set[str]:
    """Names of all operations in the graphs of a SavedModel."""
    found: set[str] = set()
    for graph in graphs:
        found.update(node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            found.update(node.op for node in function.node_def)
    return found
