"""FullGrad: input and bias gradients."""
