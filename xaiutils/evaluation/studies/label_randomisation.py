"""The data randomisation test (Adebayo et al. 2018, arXiv:1810.03292): do maps change when the labels are permuted?

With a folder, models that were trained are kept there, and read by a later call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.attribution import explain_all, own_readings
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.map_similarity import similarity_table
from xaiutils.evaluation.studies.trainings import (
    Build,
    Splits,
    check_splits,
    digest,
    digest_of_data,
    digest_of_weights,
    scores_on,
)
from xaiutils.graph.predict import predict
from xaiutils.progress import progress
from xaiutils.training import Recipe, train
from xaiutils.training.recipe import in_every_stage
from xaiutils.training.recipes import change_recipe

PERMUTED, ANOTHER = "permuted labels", "another start"


def label_models(
    build: Build,
    splits: Splits,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    fit: Mapping[str, Any] | None = None,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    batch_size: int = 32,
    **changes: Any,
) -> tuple[dict[str, keras.Model], pd.DataFrame]:
    """Two models to compare a trained one with: `PERMUTED`, from the same start but trained on permuted labels until it
    fits them, and `ANOTHER`, trained on the true labels from another start.

    A map of the first should differ from the trained model's by far more than a map of the second: else it shows the
    image, not what was learnt. The second is our addition, for without it there is no telling how alike is alike.

    Args:
        build: returns an untrained model; ``build(seed)`` is the start of `PERMUTED`, ``build(seed + 1)`` of `ANOTHER`.
        splits: training, validation and test images.
        folder: where the models' weights are kept; a later call that wants the same models reads them.
        seed: of the starts, the order of training images, and the permutation.
        fit: further fields of the recipe for the permuted labels, which take longer to fit: more epochs, a higher
            learning rate. Its last stage keeps the epoch of the lowest training loss, and none stops early.
        recipe, epochs, changes: of the training, see `xaiutils.train`; changes are fields of the recipe.
        batch_size: of the passes without training.

    Returns:
        The models by name, and a table: model, train_accuracy (on the labels it was trained on; the test holds only
        where that of `PERMUTED` is high), accuracy and auc on the test split.

    Raises:
        TypeError, ValueError: an argument is not as needed.
    """
    check_splits(splits)
    train_ds, val_ds, test_ds = splits
    recipe = change_recipe(recipe, changes)
    fitting = change_recipe(recipe, fit or {})
    if epochs is not None and "epochs" not in (fit or {}):
        fitting = in_every_stage(fitting, epochs=epochs)
    patience = max(stage.epochs for stage in fitting.stages)
    fitting = in_every_stage(fitting, monitor="loss", also_keep="", patience=patience)
    labels = np.random.default_rng(seed).permutation(train_ds.labels)
    permuted = replace(train_ds, labels=labels)
    wanted = {PERMUTED: (seed, permuted, fitting, None), ANOTHER: (seed + 1, train_ds, recipe, epochs)}
    models: dict[str, keras.Model] = {}
    rows = []
    for name, (start, labelled, how, length) in progress(wanted.items(), title="models of other labels"):
        models[name] = _trained(build(start), labelled, val_ds, how, length, start, folder, name)
        of_train = scores_on(models[name], labelled, batch_size)["accuracy"]
        rows.append({"model": name, "train_accuracy": of_train, **scores_on(models[name], test_ds, batch_size)})
    return models, pd.DataFrame(rows)


def _trained(
    model: keras.Model,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: Recipe,
    epochs: int | None,
    seed: int,
    folder: str | Path | None,
    name: str,
) -> keras.Model:
    if folder is None:
        train(model, train_ds, val_ds, recipe, epochs, seed=seed)
        return model
    depends_on = __version__, digest_of_data((train_ds, val_ds)), recipe.to_yaml(), epochs, seed
    kept = Path(folder) / f"{name.replace(' ', '_')}-{digest(*depends_on, digest_of_weights(model))}"
    weights = kept / "model.weights.h5"
    if weights.exists():
        model.load_weights(weights)
    else:
        train(model, train_ds, val_ds, recipe, epochs, kept, seed, resume=True, formats=(".weights.h5",))
    return model


def map_similarity(
    model: keras.Model,
    others: Mapping[str, keras.Model],
    ds: ImageDataset,
    methods: Iterable[str],
    targets: int | Iterable[int] | None = None,
    similarities: Iterable[str] = ("spearman", "ssim", "hog"),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """How alike the maps of ``model`` and of each other model are, image by image, for the same class.

    Maps are read as their method declares (`Method.own_reading`, or a ``reading`` among its ``parameters``).
    ``targets`` None: the class that ``model`` predicts.
    ``others`` by name, such as `label_models` returns; ``similarities`` of `xaiutils.evaluation.map_similarity`;
    ``methods`` and ``parameters`` as `xaiutils.explain_all` takes them.

    Returns a row for each method, model, image and similarity: method, model, image_id, reading, similarity, value (NaN
    where a map is constant), p (what the other model says of the class).
    """
    methods, images, similarities = list(methods), ds.images, list(similarities)
    if targets is None:
        targets = predict(model, images, batch_size).argmax(axis=1)
    classes = np.broadcast_to(np.asarray(targets), len(images))
    read = own_readings(methods, parameters)
    readings = {name: given["reading"] for name, given in read.items()}
    maps = explain_all(model, images, classes, methods, batch_size, read)
    tables = []
    for name, other in others.items():
        p = predict(other, images, batch_size, probabilities=True)[np.arange(len(images)), classes]
        found = explain_all(other, images, classes, methods, batch_size, read)
        tables.append(similarity_table(maps, found, similarities, readings, model=name, image_id=ds.ids, p=p))
    columns = ["method", "model", "image_id", "reading", "similarity", "value", "p"]
    return pd.concat(tables, ignore_index=True)[columns]
