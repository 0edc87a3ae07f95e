"""Class activation maps: weighted sums of a layer's channels. A method of this kind is its weights (`weighted_sum`)."""
