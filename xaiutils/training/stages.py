"""`train`: the stages of a recipe, one after the other, from a model and data to the best weights and a history."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.registry import check_choice
from xaiutils.training.callback import Callback, StopTraining
from xaiutils.training.checks import (
    attention_warnings,
    check_data,
    check_devices,
    check_norms,
    check_output,
    head_dropout,
    input_warnings,
    recipe_warnings,
    shared_patients,
)
from xaiutils.training.devices import PRECISIONS, computing_in, first_device, make_strategy, twin
from xaiutils.training.features import backbone_features, split_at_features
from xaiutils.training.loop import Checkpoint, Split, fit, score
from xaiutils.training.objectives import Objective, Values
from xaiutils.training.place_features import check_places, splits_by_places, tail_of, trained_copy
from xaiutils.training.recipe import Recipe, chained, in_every_stage
from xaiutils.training.recipes import batch_size_for, change_recipe
from xaiutils.training.state import BestEpoch, State, fingerprint, load_state

_STATE = "training_state.npz"


def train(
    model: keras.Model,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    *,
    resume: bool = False,
    save_every: int | None = None,
    formats: Iterable[str] = (".keras",),
    callbacks: Sequence[Callback] = (),
    devices: str | Sequence[str] = "auto",
    precision: str = "float32",
    **changes: Any,
) -> pd.DataFrame:
    """Train ``model`` in place and return its history.

    Args:
        model: as `xaiutils.build_model` makes it, ending in layers ``logits`` and ``probabilities``; a frozen recipe
            and one with dropout, freeze_norm or last_layers also need its layer ``features``. Its softmax, or one
            sigmoid unit for the second of two classes, is trained by cross-entropy, which is the same of both. With
            ``outputs="sigmoid"`` the images have several labels: binary cross-entropy of each, of which unknown ones
            (-1) count for nothing. With ``outputs="regression"`` the loss is the squared error of the standardised
            ``values``; the model answers in their own units.
        train_ds, val_ds: data of the model's image size; the weights of the epoch that is best by the recipe's
            ``monitor`` are kept, so ``val_ds`` must not be the test split.
        recipe: a name in `RECIPES` or a `Recipe` (see `read_recipe` for YAML). ``epochs``, ``changes`` (its fields)
            overlay it: ``epochs``, ``batch_size``, ``frozen_lower`` and ``copies`` in every stage, others in the
            first. ``then`` adds a stage, by
            name or as a recipe: ``train(model, ..., "modern", then="finetune")``. Mirroring is left out where
            ``train_ds.mirrors`` is False; ``val_auc`` gives way to ``val_loss`` where ``val_ds`` has one class.
        run_dir: if given, writes ``model.keras`` and ``history.csv`` there, ``model_by_NAME.keras`` for the recipe's
            ``also_keep``, ``features/`` with what a frozen backbone computed (see `features.backbone_features`), and
            while it trains ``training_state.npz``, which is removed at the end.
        seed: of shuffling, augmentation, mixup and the recipe's dropout.
        resume: go on from the state in ``run_dir``, where a cut run left one, in whichever stage; without a state
            begin again. The model must be built as then. Weights and history (except ``seconds``) become those of a
            run that was not cut, to the last bit on the same machine.
        save_every: epochs between two states, at least 1; None: a state at the end of an epoch whenever the last is
            ten seconds old, so that short runs, where writing would take longer than training, write none.
        formats: of the model in ``run_dir``: ".keras" (all of it), ".weights.h5" (weights, for `build_model`).
        callbacks: what else is done at the end of each epoch, see `callback.Callback`.
        devices: "auto": the first GPU, else the CPU. "all": every GPU, where there are several (else every logical
            CPU), or names such as ``["GPU:0", "GPU:1"]``, by TensorFlow's MirroredStrategy: each takes a share of the
            batch, and the steps are those of one device (see `loop.compiled`). One name: that device. A frozen stage
            trains on the first of them in any case: its backbone is run once.
        precision: "float32"; "mixed_bfloat16" or "mixed_float16" compute in half precision where the hardware is fast
            at it, with variables and logits in float32, and the latter with a scaled loss (see
            `devices.computing_in`). The trained model computes in float32 again.

    Returns:
        One row an epoch: epoch (from 1, over all stages), stage (its recipe), loss, accuracy, val_loss, val_accuracy,
        val_auc (where it is watched), learning_rate, seconds, what callbacks add, and kept: True in the row whose
        weights the model has now (with ``also_keep`` as well ``kept_by_NAME``). Training loss and accuracy are means
        over the epoch while the weights move; validation is measured after it. ``loss`` is what the recipe minimises,
        ``val_loss`` always plain cross-entropy. Of a quantity, val_loss is the squared error and always watched, and
        mae and val_mae, in its units, stand for the accuracies. ``attrs``: "kept_epoch", the epoch of that row;
        "warnings", sentences that were also given as Python warnings; "stopped", why a callback ended the run, or "";
        "recipe", its fields, as they were used; "seconds", of the whole call (of a resumed run also the epochs
        before), with what ``seconds`` of the rows leave out: the features of a frozen backbone, and callbacks.

    Raises:
        TypeError, ValueError: a recipe field, a data set or the model is not as needed, or the state in ``run_dir``
        is of another run. FloatingPointError: the loss became NaN.
    """
    start = time.monotonic()
    recipe = _overlaid(change_recipe(recipe, changes), changes, epochs)
    objective = check_data(model, train_ds, val_ds)
    check_choice("precision", precision, PRECISIONS)
    formats = check_output(run_dir, resume, save_every, formats)
    strategy = make_strategy(devices)
    stages, warnings = _prepared(model, recipe, train_ds, val_ds, objective)
    check_devices(1 if strategy is None else strategy.num_replicas_in_sync, stages, len(train_ds))
    dropouts = [head_dropout(model, stage) for stage in stages]
    warnings = _given(warnings + shared_patients(train_ds, val_ds) + _warnings(model, train_ds, stages))
    keras.utils.set_random_seed(seed)
    folder = None if run_dir is None else Path(run_dir)
    checkpoint, state, stopped = None, State(), ""
    if folder is not None:
        about = fingerprint(stages, (train_ds, val_ds), seed=seed, precision=precision)
        checkpoint = Checkpoint(folder / _STATE, save_every, about)
        if resume and checkpoint.path.exists():
            state = load_state(checkpoint.path, about)
    before = sum(row["seconds"] for row in state.rows)
    runner = _StageRunner(
        model, objective, train_ds, val_ds, seed, folder, checkpoint, strategy, precision, tuple(callbacks)
    )
    for number in range(state.stage, len(stages)):
        state = state if number == state.stage else _begin_stage(number, stages, state, model)
        try:
            runner.train_stage(replace(stages[number], dropout=dropouts[number]), state, _watches(stages, "val_auc"))
        except StopTraining as stop:
            stopped = str(stop) or "a callback"
            break
    stage = stages[state.stage]
    if folder is not None and stage.also_keep:
        _trained_part(model, stage).set_weights(state.kept[stage.also_keep].weights)
        _save(model, folder / f"model_by_{stage.also_keep}.keras")
    _trained_part(model, stage).set_weights(state.kept[stage.monitor].weights)
    warnings += _given(attention_warnings(model, val_ds.pixels[:16]))
    history = _history(state, stage, warnings, stopped)
    history.attrs |= {"recipe": asdict(chained(stages)), "seconds": before + time.monotonic() - start}
    if folder is not None:
        _write(model, history, folder, formats)
    for callback in callbacks:
        callback.on_train_end(history)
    return history


def _overlaid(recipe: Recipe, changes: dict[str, Any], epochs: int | None) -> Recipe:
    given = changes if epochs is None else changes | {"epochs": epochs}
    everywhere = ("epochs", "batch_size", "frozen_lower", "copies")
    return in_every_stage(recipe, **{name: given[name] for name in everywhere if name in given})


@dataclass(frozen=True)
class _StageRunner:
    """What all stages of one call share."""

    model: keras.Model
    objective: Objective
    train_ds: ImageDataset
    val_ds: ImageDataset
    seed: int
    folder: Path | None
    checkpoint: Checkpoint | None
    strategy: tf.distribute.Strategy | None
    precision: str
    callbacks: tuple[Callback, ...]

    def train_stage(self, recipe: Recipe, state: State, auc: bool) -> None:
        """Train by one recipe without its ``then``, carrying on ``state``."""
        train_ds, val_ds = self.train_ds, self.val_ds
        part = _trained_part(self.model, recipe)
        with ExitStack() as stack:
            as_built = stack.enter_context(computing_in(self.model, self.precision))
            on_one = recipe.frozen or recipe.by_places
            strategy, working = None if on_one else self.strategy, self.model
            if on_one and self.strategy is not None:
                stack.enter_context(tf.device(first_device(self.strategy)))
            if strategy is not None:
                working = twin(self.model, strategy)
                stack.enter_context(computing_in(working, self.precision))
            if recipe.frozen:
                extract, head = split_at_features(self.model)
                body, kept = extract if recipe.fresh else None, head
                cache = None if self.folder is None else self.folder / "features"
                inputs = backbone_features(extract, train_ds, val_ds, recipe, self.seed, cache)
            elif recipe.by_places:
                cache = None if self.folder is None else self.folder / "lower_features"
                (head, kept), body, working = trained_copy(self.model, recipe), None, None
                train, val, objective = splits_by_places(
                    self.model, self.objective, train_ds, val_ds, recipe, self.seed, cache
                )
            else:
                split = recipe.dropout or recipe.freeze_norm or recipe.last_layers
                kept = _to_logits(working)
                body, head = split_at_features(working) if split else (None, kept)
                inputs = train_ds.pixels, val_ds.pixels
            if not recipe.by_places:
                objective = self.objective
                train, val = (Split(x, objective.targets(d)) for x, d in zip(inputs, (train_ds, val_ds), strict=True))

            def after_epoch(row: dict[str, Any]) -> None:
                if self.callbacks and working is not self.model:
                    part.set_weights(kept.get_weights())
                with as_built():
                    for callback in self.callbacks:
                        callback.on_epoch_end(row["epoch"], self.model, row)

            fit(
                body,
                head,
                kept,
                train,
                val,
                recipe,
                self.seed,
                state,
                objective,
                auc=auc,
                checkpoint=self.checkpoint,
                strategy=strategy,
                scale_loss=self.precision == "mixed_float16",
                after_epoch=after_epoch,
            )


def _begin_stage(number: int, stages: list[Recipe], state: State, model: keras.Model) -> State:
    """The state at the start of a stage, ``model`` having the best weights of the one before: they are also the best so
    far by what this stage watches, except the training loss, which stages do not share."""
    before = state.kept[stages[number - 1].monitor]
    _trained_part(model, stages[number - 1]).set_weights(before.weights)
    row, weights = state.rows[before.epoch - 1], _trained_part(model, stages[number]).get_weights()
    measures = [name for name in (stages[number].monitor, stages[number].also_keep) if name not in ("", "loss")]
    return State(number, 0, state.rows, {name: BestEpoch(score(name, row), before.epoch, weights) for name in measures})


def _prepared(
    model: keras.Model, recipe: Recipe, train_ds: ImageDataset, val_ds: ImageDataset, objective: Objective
) -> tuple[list[Recipe], list[str]]:
    """The stages as these data want them, and sentences on what was changed."""
    stages, warnings = recipe.stages, []
    stages = [s if s.batch_size else replace(s, batch_size=batch_size_for(len(train_ds))) for s in stages]
    if not train_ds.mirrors:
        stages = [_without_mirroring(s) for s in stages]
    if isinstance(objective, Values):
        stages = [_watching_loss(s, ("val_auc", "val_accuracy")) for s in stages]
    elif _watches(stages, "val_auc") and not objective.has_auc(val_ds):
        warnings.append("val_ds has images of one class alone, which has no AUC: val_loss is watched instead.")
        stages = [_watching_loss(s, ("val_auc",)) for s in stages]
    check_places(model, train_ds, stages, objective)
    check_norms(model, stages)
    return stages, warnings


def _watches(stages: list[Recipe], name: str) -> bool:
    return any(name in (stage.monitor, stage.also_keep) for stage in stages)


def _without_mirroring(recipe: Recipe) -> Recipe:
    plain = replace(
        recipe, copies=max(recipe.copies, 1), fresh=False, flip=False, flip_horizontal=False, flip_vertical=False
    )
    # Copies that nothing changes would all be the same.
    return replace(plain, copies=recipe.copies, fresh=recipe.fresh) if plain.augments else replace(plain, copies=0)


def _watching_loss(recipe: Recipe, in_place_of: tuple[str, ...]) -> Recipe:
    monitor, also = ("val_loss" if name in in_place_of else name for name in (recipe.monitor, recipe.also_keep))
    return replace(recipe, monitor=monitor, also_keep="" if also == monitor else also)


def _warnings(model: keras.Model, train_ds: ImageDataset, stages: list[Recipe]) -> list[str]:
    few = train_ds.pixels[:: max(1, len(train_ds) // 8)][:8].astype(np.float32)
    found = input_warnings(model, few)
    for stage in stages:
        found += recipe_warnings(stage, stage.epochs * (len(train_ds) // min(stage.batch_size, len(train_ds))))
    return found


def _given(texts: list[str]) -> list[str]:
    """The same sentences, given as warnings at the caller of `train`."""
    for text in texts:
        warn(text, stacklevel=3)
    return texts


def _history(state: State, stage: Recipe, warnings: list[str], stopped: str) -> pd.DataFrame:
    history, best = pd.DataFrame(state.rows), state.kept[stage.monitor].epoch
    history["kept"] = history["epoch"] == best
    if stage.also_keep:
        history[f"kept_by_{stage.also_keep}"] = history["epoch"] == state.kept[stage.also_keep].epoch
    history.attrs |= {"kept_epoch": best, "warnings": warnings, "stopped": stopped}
    return history


def _to_logits(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, model.get_layer("logits").output)


def _trained_part(model: keras.Model, recipe: Recipe) -> keras.Model:
    """The part of ``model`` whose weights a stage may change."""
    if recipe.frozen:
        return split_at_features(model)[1]
    return tail_of(model, recipe) if recipe.by_places else _to_logits(model)


def _write(model: keras.Model, history: pd.DataFrame, folder: Path, formats: Iterable[str]) -> None:
    """The files of a run that has ended; its state goes last."""
    for suffix in formats:
        _save(model, folder / f"model{suffix}")
    replace_file(folder / "history.csv", lambda path: history.to_csv(path, index=False))
    (folder / _STATE).unlink(missing_ok=True)


def _save(model: keras.Model, path: Path) -> None:
    """`replace_file` for a model; Keras wants the whole of ".weights.h5" at the end, the temporary name has ".h5"."""

    def write(temporary: Path) -> None:
        if not path.name.endswith(".weights.h5"):
            model.save(temporary)
            return
        whole = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(whole)
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)

    replace_file(path, write)
