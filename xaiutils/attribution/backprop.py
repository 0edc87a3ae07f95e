"""Modified backward passes: guided backpropagation, deconvolution, DeepLIFT."""
