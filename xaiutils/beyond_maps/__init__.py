"""What goes beyond one map: the image of a class, the similarity of two images, and outlines of objects."""
