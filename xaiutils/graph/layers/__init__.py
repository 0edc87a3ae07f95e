"""What is known of each kind of layer, once, for all methods."""
