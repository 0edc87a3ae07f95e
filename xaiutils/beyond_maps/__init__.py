"""What goes beyond one map of one image.

`class_model` makes an image of a class by gradient ascent (activation maximisation), `embedding` explains why two
images are similar, `nearest_examples` finds the training images that an answer resembles, `relevant_examples` those in
which a channel has the most relevance, and `segmentation` turns a saliency map into the outline of an object.
"""
