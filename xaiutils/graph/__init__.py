"""A Keras classifier as attribution sees it: its flat graph, head, layers and places, and compiled passes.

From the ground up: `flat_graph` (operations and tensors), `layers` (what is known of each type of layer), `head` and
`log_probability` (the logits), `place_tracing`, `place_trials` and `places` (where a layer's grid lies in the image),
`trace_dependencies` (when compiled passes are out of date), `network` (all of these for one model), `cam_layers` (which
layers a class activation map reads), `passes` (compiled, batched), and `predict` with the checks of all calls.
"""
