"""Optimisers with decoupled weight decay in both senses in use, RAdam, and the learning-rate schedules.

Two things are called "decoupled weight decay". With learning rate a and decay d, a step starts from

- theta <- theta - a d theta: the modern sense (Keras 3, PyTorch), ``decay_by_rate=True``;
- theta <- theta - d theta: TF-Addons' sense, that of the paper with its schedule multiplier fixed at 1,
  ``decay_by_rate=False``. At a = 1e-3 the same d decays a thousand times faster.

Loshchilov & Hutter 2019, Decoupled weight decay regularization, arXiv:1711.05101.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keras import ops

from xaiutils.backend import keras, tf

OPTIMIZERS = ("adamw", "adam", "adamax", "sgdw", "radam")
SCHEDULES = ("cosine", "restarts", "constant")


class _Decay(keras.optimizers.Optimizer):
    """Shrinks each variable before its step; ``decay`` in either sense of the module's docstring.

    Keras' own weight decay asks its schedule again for each variable: on a ViT a third of the calls in tracing a step.
    """

    def __init__(self, learning_rate: Any, decay: float, decay_by_rate: bool, **options: Any):
        super().__init__(learning_rate=learning_rate, **options)
        self.decay, self.decay_by_rate = decay, decay_by_rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.decay:
            taken = variable * ops.cast(self.decay, variable.dtype)
            if self.decay_by_rate:
                taken *= ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, taken)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["weight_decay"]
        return config | {"decay": self.decay, "decay_by_rate": self.decay_by_rate}


class SGDW(_Decay, keras.optimizers.SGD):
    """SGD with momentum and decoupled weight decay (Loshchilov & Hutter 2019, algorithm 1).

    v <- momentum v - a g; theta <- theta - decay + v, with the gradient g taken before the decay. The defaults are
    the sense and the order of TF-Addons' SGDW. Every variable decays, biases too.

    Args:
        learning_rate: a, a number or a schedule.
        decay: fraction of each variable taken off a step (times a with ``decay_by_rate``).
        momentum: in [0, 1).
        options: ``clipnorm`` (of each variable's gradient), ``global_clipnorm`` (of all together), ``name``.
    """

    def __init__(
        self,
        learning_rate: Any,
        decay: float = 1e-4,
        momentum: float = 0.9,
        decay_by_rate: bool = False,
        **options: Any,
    ):
        super().__init__(learning_rate, decay, decay_by_rate, momentum=momentum, **options)


class AdamW(_Decay, keras.optimizers.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2): by default Keras' AdamW, bit by bit;
    with ``decay_by_rate=False`` as TF-Addons has it."""

    def __init__(self, learning_rate: Any, decay: float = 1e-4, decay_by_rate: bool = True, **options: Any):
        super().__init__(learning_rate, decay, decay_by_rate, **options)


class RAdam(keras.optimizers.Optimizer):
    """Rectified Adam (Liu et al. 2020, On the variance of the adaptive learning rate and beyond, arXiv:1908.03265).

    Adam whose step is multiplied by r_t, which makes up for the variance of the second moment in early steps. With
    rho_inf = 2 / (1 - beta_2) - 1 and rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t),

        r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))

    where rho_t > 5; else the step is that of momentum alone, a m_t / (1 - beta_1^t). The paper's text has rho_t > 4;
    5 is what its authors' code, TF-Addons and PyTorch use (with beta_2 = 0.999, Adam's step from t = 6 on).
    ``weight_decay`` is multiplied by the learning rate, as in Keras and TF-Addons.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "radam",
        **options: Any,
    ):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name=name, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: list[Any]) -> None:
        if not self.built:
            super().build(variables)
            self._means, self._squares = self.add_optimizer_variables(variables, ["mean", "square"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        dtype, index = variable.dtype, self._get_variable_index(variable)
        gradient, rate = ops.cast(gradient, dtype), ops.cast(learning_rate, dtype)
        # float64: in early steps rho is the small difference of two large numbers.
        t = ops.cast(self.iterations + 1, "float64")
        power_1, power_2 = self.beta_1**t, self.beta_2**t
        top = 2 / (1 - self.beta_2) - 1
        rho = top - 2 * t * power_2 / (1 - power_2)
        safe = ops.maximum(rho, 5.0)  # the branch that is not taken must not take the root of a negative number
        r = ops.sqrt((safe - 4) * (safe - 2) * top / ((top - 4) * (top - 2) * safe))
        momentum_only, rectified, of_mean, of_square = (
            ops.cast(value, dtype) for value in (rho <= 5, r, 1 - power_1, 1 - power_2)
        )
        mean, square = self._means[index], self._squares[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        adaptive = rectified / (ops.sqrt(square / of_square) + self.epsilon)
        self.assign_sub(variable, rate * mean / of_mean * (momentum_only + (1 - momentum_only) * adaptive))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """The same rate at every step."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return ops.convert_to_tensor(self.rate, "float32")

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


def make_schedule(recipe: Any, total: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The recipe's learning rate by step (from 0), for a run of at most ``total`` steps.

    "cosine": a linear warm-up over the fraction ``warmup`` of the steps, from a thousandth of the rate, then half a
    cosine down to 0. "restarts": Loshchilov & Hutter 2017 (SGDR, arXiv:1608.03983); from the rate down to ``alpha``
    times it within ``first_decay_steps``, again from ``m_mul`` times the rate within ``t_mul`` times as many steps,
    and so on. It does not look at ``total``, and has no warm-up. "constant": the rate.
    """
    if recipe.schedule == "restarts":
        return keras.optimizers.schedules.CosineDecayRestarts(
            recipe.learning_rate, recipe.first_decay_steps, recipe.t_mul, recipe.m_mul, recipe.alpha
        )
    if recipe.schedule == "constant":
        return Constant(recipe.learning_rate)
    warmup = max(1, round(recipe.warmup * total))
    return keras.optimizers.schedules.CosineDecay(
        1e-3 * recipe.learning_rate,
        max(1, total - warmup),
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )


def make_optimizer(recipe: Any, schedule: Any) -> keras.optimizers.Optimizer:
    """The recipe's optimiser. ``clip`` is the largest L2 norm of a gradient, of all variables together
    (``clip_by="global"``) or of each (``"variable"``); 0 leaves gradients as they are."""
    clip = {} if recipe.clip == 0 else {"global_clipnorm" if recipe.clip_by == "global" else "clipnorm": recipe.clip}
    if recipe.optimizer == "sgdw":
        return SGDW(schedule, recipe.weight_decay, recipe.momentum, recipe.decay_by_rate, **clip)
    if recipe.optimizer == "radam":
        return RAdam(schedule, recipe.weight_decay, **clip)
    if recipe.optimizer in ("adam", "adamax"):
        return (keras.optimizers.Adam if recipe.optimizer == "adam" else keras.optimizers.Adamax)(schedule, **clip)
    return AdamW(schedule, recipe.weight_decay, recipe.decay_by_rate, **clip)


class MovingAverage:
    """A moving average of variables: after step t (from 0) it is d times the last one plus 1 - d times the variables,
    d = min(``decay``, (1 + t) / (10 + t)), so that the start is forgotten soon. ``decay`` 0: there is none."""

    def __init__(self, variables: Sequence[keras.Variable], decay: float):
        self._watched = list(variables) if decay else []
        self.variables = [
            keras.Variable(ops.convert_to_numpy(v), trainable=False, name="average") for v in self._watched
        ]

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)], autograph=False)
        def follow(step):
            d = tf.minimum(decay, (1 + step) / (10 + step))
            for average, variable in zip(self.variables, self._watched, strict=True):
                average.assign(d * average.value + (1 - d) * variable.value)

        self._follow = follow

    def update(self, step: int) -> None:
        """Take in the variables as they are after a step."""
        if self._watched:
            self._follow(float(step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the variables have their averages."""
        values = [ops.convert_to_numpy(v) for v in self._watched]
        for variable, average in zip(self._watched, self.variables, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self._watched, values, strict=True):
                variable.assign(value)
