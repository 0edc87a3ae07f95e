"""Layer-wise relevance propagation (LRP): how relevance goes back from the logits to the pixels.

`lrp` and its `contrastive` forms (CLRP, SGLRP) say where relevance starts (`seeds`), `propagation` how it passes each
layer, `linear_rules` how it passes learned linear layers, and `transformer` has Chefer, Gur & Wolf's rules.
"""
