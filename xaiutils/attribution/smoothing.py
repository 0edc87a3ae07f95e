"""SmoothGrad, its square and VarGrad over any method."""
