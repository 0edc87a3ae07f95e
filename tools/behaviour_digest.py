# ruff: noqa: B023, E402 (each function is run at once; threads and seeds are set before TensorFlow is imported)
"""What the package gives, as a record: written before code is moved, and compared after it.

    python tools/behaviour_digest.py --write before.json
    python tools/behaviour_digest.py --compare before.json [--only maps/cnn]

Everything is computed on one thread, from seeds, with small models of random weights. An array is recorded as its
digest, mean, standard deviation and up to 64 of its values, a table as one array for each column of numbers and the
rest as text, a text as itself, and what raises as its error. Where XAI_KIT names the kit of real data, its sets are
loaded too. Only public names are used, for modules may move: what `xaiutils.__all__` does not lead to is looked for by
its name in the whole package.
"""

import argparse
import atexit
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="xai-digest-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = "1"
os.environ.update(CUDA_VISIBLE_DEVICES="-1", XAI_PROGRESS="off", XAI_CACHE=str(FOLDER / "cache"))
os.environ.update(TF_DETERMINISTIC_OPS="1", TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow", PYTHONHASHSEED="0")
os.environ.pop("XAI_RUNS", None)
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import pandas as pd
from digest_inputs import CLASSES, SIZE, find, images, model, phantom, predictions, variants, write_pictures
from digest_record import Record, compare

import xaiutils as xai

KIT = os.environ.get("XAI_KIT", "")


def registries(record: Record) -> None:
    def declared(p) -> str:
        return f"{p.name}: {p.kind.__name__} = {p.default!r}, {p.low} to {p.high}, {p.choices}"

    def entry(e) -> str:
        fields = {f.name: getattr(e, f.name) for f in dataclasses.fields(e) if f.name not in ("help", "parameters")}
        lines = [f"{name}: {value!r}" for name, value in fields.items() if not callable(value)]
        lines += [f"options: {dict(e.options)!r}"] if hasattr(e, "options") else []
        lines += [f"libraries: {e.libraries}"] if hasattr(e, "libraries") else []
        lines += [f"by default {e.own_reading({})}, signed: {e.is_signed({})}"] if hasattr(e, "own_reading") else []
        return "\n".join(lines + [declared(p) for p in getattr(e, "parameters", ())])

    for name in ("METHODS", "METRICS", "TRANSFORMS", "DATASETS", "MODELS", "RECIPES"):
        registry = getattr(xai, name)
        record.run(f"registries/{name}", lambda r=registry: ", ".join(r))
        for key, value in registry.items():
            record.run(f"registries/{name}/{key}", lambda v=value: entry(v))
    record.run("registries/public", lambda: ", ".join(sorted(xai.__all__)))
    for module in sorted(xai.__all__):
        names = getattr(getattr(xai, module), "__all__", None)
        if names is not None:
            record.run(f"registries/public/{module}", lambda n=names: ", ".join(sorted(n)))


def transforms(record: Record) -> None:
    maps = images().mean(axis=-1)
    for name, transform in xai.TRANSFORMS.items():
        for which, given in variants(transform.parameters).items():
            key, changes = f"transforms/{name}/{which}", {"seed": 4, "model": model("cnn")}
            record.run(f"{key}/apply", lambda: transform.apply(images(), **changes, **given))
            record.run(f"{key}/invert", lambda: transform.invert(maps, **given))
            record.run(f"{key}/masks", lambda: transform.apply_to_masks(maps > 128, **given))
            record.run(f"{key}/hidden", lambda: transform.hidden(images(), seed=4, **given))
        record.run(
            f"transforms/{name}/snr", lambda: xai.signal_to_noise(images(), transform.apply(images(), **changes))
        )


def maps(record: Record) -> None:
    for kind in ("cnn", "vit", "sigmoid"):
        record.run(f"maps/{kind}/logits", lambda: xai.predict(model(kind), images()))
        record.run(f"maps/{kind}/probabilities", lambda: xai.predict(model(kind), images(), probabilities=True))
        explain = functools.partial(xai.explain, model(kind), images())
        cheap_all = {}
        for name, method in xai.METHODS.items():
            if ("vit" if kind == "vit" else "cnn") not in method.suits:
                continue
            found = variants(method.parameters, lists=kind == "cnn")
            if kind == "vit" and "cnn" in method.suits:  # relevance through a transformer takes seconds
                found = {"default": found["default"]}
            cheap_all[name] = found["default"]
            if any(p.name == "layer" for p in method.parameters) and kind == "cnn":
                found["layer=conv2"] = {**found["default"], "layer": "conv2"}
            for which, given in found.items() if kind != "sigmoid" else [("default", found["default"])]:
                record.run(f"maps/{kind}/{name}/{which}", lambda: explain(method=name, **given))
            if kind == "cnn":
                given = found["default"]
                read = {"reading": "positive", "targets": [0, 1, 2], "batch_size": 2}
                record.run(f"maps/cnn/{name}/positive", lambda: explain(method=name, **read, **given))
                for library in method.libraries[1:]:
                    record.run(f"maps/cnn/{name}/{library}", lambda: explain(method=name, library=library, **given))
        options = {"methods": cheap_all, "parameters": cheap_all, "reading": "magnitude"}
        record.run(f"maps/{kind}/explain_all", lambda: xai.explain_all(model(kind), images(), **options))


def metrics(record: Record) -> None:
    network, ds = model("pair"), phantom(4)
    for method in ("grad_cam", "gradients_x_inputs"):
        found = xai.explain(network, ds.images, method=method)
        for name, metric in xai.METRICS.items():
            given = variants(metric.parameters)
            if method != "grad_cam":
                given = {"default": given["default"]}
            for which, values in given.items():
                options = {"metrics": [name], "method": method, "parameters": {name: values}}
                score = functools.partial(xai.evaluate, network, ds, found, **options)
                record.run(f"metrics/{method}/{name}/{which}", lambda: score()["value"])
            record.run(f"metrics/{method}/{name}/positive", lambda: score(reading="positive")["value"])
    known = [name for name, metric in xai.METRICS.items() if metric.chance is not None]
    record.run("metrics/chance", lambda: xai.evaluation.chance(ds, known))
    record.run("metrics/controls", lambda: xai.evaluation.control_maps(ds, seed=2))


def evaluation(record: Record) -> None:
    network, ds = model("pair"), phantom(12)
    methods, judged = ["vanilla_gradients", "gradients_x_inputs", "grad_cam"], ["roc_auc", "pointing_game", "iou"]

    @functools.cache
    def measured():
        options = {"n_faithfulness": 4, "metric_parameters": {"deletion_auc": {"n_steps": 4}}}
        return find("measure")(network, ds, methods, [*judged, "relevance_mass", "deletion_auc", "entropy"], **options)

    @functools.cache
    def one():
        return find("of_reading")(measured().scores, "magnitude")

    def own():
        return find("of_methods")(one())

    def fits():
        shape = find("evidence_shape")(ds)
        rows = own()[own()["metric"] == "iou"].merge(shape, on="image_id")
        return find("regress")(rows, ["log_area", "elongation", "p"], n_resamples=200)

    run = functools.partial(record.run)
    run("evaluation/measure", measured)
    run(
        "evaluation/summarise",
        lambda: xai.evaluation.summarise(one(), ["method", "weights", "metric"], n_resamples=200),
    )
    run("evaluation/claims", lambda: find("claims")(one(), n_resamples=200))
    run("evaluation/words", lambda: find("in_words")(measured().scores, n_resamples=200))
    for name in ("mean_ranks", "agreement", "concordance"):
        run(f"evaluation/{name}", lambda: find(name)(own()))
    run("evaluation/rank", lambda: find("rank")(own(), "roc_auc"))
    run("evaluation/compare", lambda: find("compare")(own(), "roc_auc", n_resamples=200))
    plain = find("without_random_weights")
    run("evaluation/against_chance", lambda: find("against_chance")(plain(one()), "pointing_game"))
    run("evaluation/disagreements", lambda: find("disagreements")(own(), "iou", *methods[:2]))
    run("evaluation/evidence_shape", lambda: find("evidence_shape")(ds))
    run("evaluation/regress", fits)
    run("evaluation/slopes", lambda: find("slopes_in_words")(fits()))
    maps = {m: xai.explain(network, ds.images, method=m) for m in methods}
    run("evaluation/evaluate_all", lambda: xai.evaluation.evaluate_all(network, ds, maps, judged, reading="positive"))
    few, chosen = ds.take(4), ["vanilla_gradients", "grad_cam"]
    chance = functools.partial(find("chance_similarity"), {m: maps[m][:4] for m in chosen}, few.ids, n_pairs=5)
    run("evaluation/chance_similarity", chance)
    for mode in ("cascading", "independent"):
        test = functools.partial(find("randomisation_test"), network, few.images, few.ids, chosen, mode=mode)
        run(f"evaluation/randomisation/{mode}", lambda: test(n_stages=3, norms=mode == "cascading"))
        run(f"evaluation/verdicts/{mode}", lambda: find("verdicts")(test(n_stages=2), chance(), n_resamples=100))
    run("evaluation/random_weights", lambda: find("random_weight_maps")(network, few.images, chosen))
    drop = functools.partial(find("mc_dropout"), network, few, ["grad_cam"], n_passes=3, metrics=["roc_auc"])
    run("evaluation/mc_dropout", lambda: drop(after=["conv2"]))
    run("evaluation/cam_axioms", lambda: find("cam_axioms")(network, few))
    run("evaluation/completeness", lambda: find("completeness_table")(network, few, n_steps=(3, 6)))
    run("evaluation/prediction_change", lambda: find("prediction_change")(network, few, list(xai.TRANSFORMS)))
    found = dataclasses.replace(ds, labels=xai.predict(network, ds.images).argmax(axis=1))
    run("evaluation/mosaics", lambda: find("grid_mosaics")(network, found, n=2))
    for place in ("top_right", "random"):
        run(f"evaluation/plant/{place}", lambda: find("plant")(few, find("Mark")(place=place, height=0.2)))
    planted = functools.cache(lambda: find("confound")(ds, 1))
    use = functools.cache(lambda: find("mark_use")(network, ds, planted()))
    run("evaluation/confound", planted)
    run("evaluation/mark_use", use)
    run("evaluation/mark_found", lambda: find("mark_found")(planted(), maps, use()))
    segment, saliency = xai.segmentation.segment_from_saliency, maps["vanilla_gradients"][0]
    for method in ("graph_cut", "gmm"):
        run(f"evaluation/segmentation/{method}", lambda: segment(ds.images[0], saliency, method=method))
    options = {"n_steps": 5, "blur": 0.5, "jitter": 2, "total_variation": 0.01}
    run("evaluation/class_model", lambda: xai.class_model.class_model(network, 1, **options))


def datasets(record: Record) -> None:
    def load(key: str, name: str, splits: tuple[str, ...], **options) -> None:
        @functools.cache
        def found(split: str):
            return xai.load_dataset(name, split, **{"image_size": 32, "limit": 4, **options})

        def sheet() -> str:
            return xai.datasets.datasheet({s: found(s) for s in splits})

        for split in splits:
            record.run(f"datasets/{key}/{split}", lambda: found(split))
            record.run(f"datasets/{key}/{split}/facts", lambda: found(split).facts())
            record.run(f"datasets/{key}/{split}/lengths", lambda: found(split).lesion_lengths())
        record.run(f"datasets/{key}/sheet", sheet)
        record.run(f"datasets/{key}/leaks", lambda: xai.datasets.find_leaks({s: found(s) for s in splits}))

    parts = ("train", "val", "test")
    for task in ("presence", "margin", "calcifications", "five"):
        for difficulty in ("easy", "medium", "hard"):
            load(f"phantom/{task}/{difficulty}", "phantom", ("test",), task=task, difficulty=difficulty, limit=5)
    for tags in ("iid", "neutral", "flipped"):
        load(f"phantom/shortcut/{tags}", "phantom", ("test",), task="shortcut", difficulty="easy", tags=tags)
    load("digits", "digits", parts)
    pictures = FOLDER / "pictures"
    write_pictures(pictures)
    common = {"data_dir": pictures, "limit": None, "patient_from": r"(p\d+)_"}
    load("folder", "folder", parts, **common)
    load("folder/aspect", "folder", ("all",), **{**common, "keep_aspect": True, "limit": 6})
    given = {**common, "patient_from": "", "patient_column": "patient", "boxes_column": "boxes"}
    load("table", "table", parts, **given)
    load("table/one", "table", ("all",), **{**given, "boxes_column": "", "mask_pattern": "{image}"})
    load("coco", "coco", parts, **common)
    labels = np.arange(20) ** 2 % 3
    record.run("datasets/balanced", lambda: xai.datasets.balanced_indices(labels, 7, seed=1))
    if KIT:
        folders = {"busi": "busi", "oxford_pets": "oxford_pets", "mnist": "mnist", "cats_vs_dogs": "cats_dogs"}
        for name, folder in (folders | {"cbis_ddsm": "cbis_ddsm"}).items():
            load(f"kit/{name}", name, ("val", "test"), data_dir=Path(KIT) / folder)


def classification(record: Record) -> None:
    two, three = ("benign", "malignant"), ("a", "b", "c")
    cases = {"patients": (two, 2), "binary": (two, 1), "three": (three, 1)}
    c = xai.classification
    for name, (names, per) in cases.items():
        found, other = predictions(90, names, 1, per_patient=per), predictions(90, names, 2, 0.3, per)
        report = functools.cache(
            lambda p=found, v=names, k=per, **given: c.assess(p, predictions(60, v, 3, per_patient=k), **given)
        )
        record.run(f"classification/{name}/report", report)
        for part in ("table", "summary", "event", "sentences", "verdict", "baseline_names"):
            record.run(f"classification/{name}/{part}", lambda: _called(getattr(report(), part)))
        record.run(f"classification/{name}/alone", lambda: c.assess(found, confidence=0.9, seed=4))
        table = functools.partial(c.results_table)
        record.run(f"classification/{name}/results", lambda: table({"a": report(), "b": c.assess(other)}))
        record.run(f"classification/{name}/text", lambda: table({"a": report(), "b": c.assess(other)}, as_text=True))
        three_models = {"a": found, "b": other, "c": predictions(90, names, 5, 2.0, per)}
        compared = functools.cache(lambda t=three_models: c.compare_models(t))
        record.run(f"classification/{name}/compare", compared)
        record.run(f"classification/{name}/mean_auc", lambda: c.mean_auc(found.labels, found.probabilities))
        history = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [3.0, 1, 2], "seconds": [1.0, 2, 3]})
        card = {"recipe": xai.RECIPES["modern"], "history": history, "comparison": compared(), "options": {"task": 1}}
        environment = {"cores": 2, "gpus": [], "python": "3", "versions": {"keras": "3"}, "git_commit": "abc"}
        splits = {"train": phantom(8, "train"), "test": phantom(4)}
        write = functools.partial(c.model_card, **card, n_weights=9, weights="ImageNet", environment=environment)
        record.run(f"classification/{name}/card", lambda: write(report(), splits))
        record.run(f"classification/{name}/plain", lambda: c.model_card(report(), {"test": splits["test"]}))


def _called(value: object) -> object:
    return value() if callable(value) else value


def training(record: Record) -> None:
    for name in ("efficientnet_lite0", "mobilenet_v2", "vit_mini16"):
        built = functools.cache(lambda n=name: xai.build_model(n, n_classes=CLASSES, image_size=SIZE, seed=2))
        record.run(f"training/models/{name}/weights", lambda: f"{built().count_params()} {len(built().weights)}")
        record.run(f"training/models/{name}/logits", lambda: xai.predict(built(), images()))

    def history(recipe: str) -> pd.DataFrame:
        keras.backend.clear_session()
        small = xai.build_model("vit_mini16", image_size=SIZE, seed=2)
        table = xai.train(small, phantom(16, "train"), phantom(8, "val"), recipe, epochs=2, batch_size=8, seed=1)
        return table[[c for c in table if "second" not in str(c)]]

    for recipe in ("modern", "scratch", "thesis"):
        record.run(f"training/history/{recipe}", lambda: history(recipe))
    report = xai.training.classification_report
    record.run("training/report", lambda: report(model("sigmoid"), phantom(12), name="m").metrics)


PARTS = (registries, transforms, maps, metrics, evaluation, datasets, classification, training)


def compute(only: str, timings: bool) -> dict[str, object]:
    record = Record(only, {str(FOLDER): "<folder>"} | ({KIT: "<kit>"} if KIT else {}))
    for part in PARTS:
        if record.wants(part.__name__) or part.__name__.startswith(only):
            start = time.perf_counter()
            part(record)
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if timings:
        for key, seconds in sorted(record.seconds.items(), key=lambda item: -item[1])[:25]:
            print(f"{seconds:7.2f} s {key}", file=sys.stderr)
    return dict(sorted(record.entries.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE", help="write the record")
    what.add_argument("--compare", type=Path, metavar="FILE", help="compare with a record; 1 where anything differs")
    parser.add_argument(
        "--only", default="", metavar="PREFIX", help="keys that start so, such as maps or metrics/grad_"
    )
    parser.add_argument("--timings", action="store_true", help="say what took longest")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = compute(arguments.only, arguments.timings)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{len(found)} keys in {arguments.write}")
        return 0
    old = json.loads(arguments.compare.read_text(encoding="utf-8"))
    return int(compare({k: v for k, v in old.items() if k.startswith(arguments.only)}, found) > 0)


if __name__ == "__main__":
    sys.exit(main())
