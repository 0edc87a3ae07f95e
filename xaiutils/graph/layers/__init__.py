"""What is known of each type of layer, once, for all methods: `table`.

Its entries point to what takes a layer apart (`linear`, `norms`, `attention`, `windows`, `log_counterparts`). Upon it
stand `activations`, `batch_norm` (folding), `attention_parts`, and `step_kinds`: what each step of a graph does, by its
entry, or by `trials` on numbers.
"""
