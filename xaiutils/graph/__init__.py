"""A Keras classifier as attribution sees it: its flat graph, head, layers and places, and compiled passes."""
