"""Changes made against a model: FGSM and PGD.

Both try to raise the cross-entropy L of each image's target class, by default the predicted one, without aiming at
another class. They are L-infinity attacks: no value moves by more than ``epsilon`` grey levels, and all stay in [0,
255]. Results are not rounded to grey levels (whole numbers plus a whole ``epsilon`` give whole numbers with FGSM).
How the gradient's sign is computed: `loss_ascent`.

A row of such images shows how maps change with a prediction that is pushed over (by PGD; the single step of FGSM may
overshoot and turn nothing). It is no measure of robustness: that takes stronger attacks with restarts (Croce & Hein
2020, arXiv:2003.01690).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from xaiutils.registry import Parameter
from xaiutils.transforms.transform import Transform

__all__ = ["FGSM", "PGD", "fgsm", "pgd"]

_EPSILON = Parameter("epsilon", float, 4.0, "largest change of a value, in grey levels of 255", 0.0, 50.0)


def fgsm(
    images: np.ndarray,
    rng: np.random.Generator,
    epsilon: float,
    model: Any,
    targets: int | Iterable[int] | None,
    batch_size: int,
) -> np.ndarray:
    """Fast gradient sign method: x + epsilon sign(dL/dx) (Goodfellow et al. 2015, arXiv:1412.6572, section 4)."""
    from xaiutils.transforms.loss_ascent import ascend_loss  # imports TensorFlow, which the list of transforms does not

    return ascend_loss(model, images, targets, batch_size, 0.0, epsilon, epsilon, 1)


FGSM = Transform(
    "fgsm",
    "FGSM attack",
    "x + epsilon sign(dL/dx), L the cross-entropy of the predicted class",
    fgsm,
    (_EPSILON,),
    paper="Goodfellow et al. 2015, arXiv:1412.6572",
    needs_model=True,
)


def pgd(
    images: np.ndarray,
    rng: np.random.Generator,
    epsilon: float,
    n_steps: int,
    step_size: float,
    model: Any,
    targets: int | Iterable[int] | None,
    batch_size: int,
) -> np.ndarray:
    """Projected gradient descent on -L from a random start in the ball (Madry et al. 2018, arXiv:1706.06083).

    Steps of ``step_size`` times epsilon along sign(dL/dx); the last point counts, without restarts. The default of
    0.25 in 10 steps is the paper's 2.5 epsilon / n_steps: every point of the ball is within reach from any start.
    The start is one draw of uniform noise, the same for every image.
    """
    from xaiutils.transforms.loss_ascent import ascend_loss

    start = rng.uniform(-epsilon, epsilon, images.shape[1:]).astype(np.float32)
    return ascend_loss(model, images, targets, batch_size, start, epsilon, step_size * epsilon, n_steps)


PGD = Transform(
    "pgd",
    "PGD attack",
    "repeated signed gradient steps from a random start, within epsilon of the image",
    pgd,
    (
        _EPSILON,
        Parameter("n_steps", int, 10, "gradient steps", 1, 1000),
        Parameter("step_size", float, 0.25, "length of a step as a fraction of epsilon", 0.0, 1.0),
    ),
    paper="Madry et al. 2018, arXiv:1706.06083",
    needs_model=True,
)
