"""Whole mammograms by networks that look where the lesions are: compared, tested once, asked what they use.

``python benchmarks/mammograms.py --cache FOLDER`` reads the masses of CBIS-DDSM from ``XAI_KIT`` at 800 x 608 pixels,
trains EfficientNet-Lite0 for each choice, fold and seed, and measures it on the images left out. Folds keep a patient's
images together; "official" is the loader's own tenth of the training patients. What more is measured of networks that
have been trained, each by a step of its own:

    --test        AUCs of the official test images, and where the heat map points; --mean also of all of them together
    --gate        does it use the lesion? On validation and test images
    --detection   lesions found at so many false finds an image
    --maps        who finds the lesion: post-hoc methods and controls, for "malignant"; settings from validation images
    --page        mammograms.md, of all that there is

``--take FOLDER`` takes in networks that `mammograms_gpu.py` has trained, with what it found.

Each result is written into `mammograms.json` as it comes; cut, a step goes on where it was. What is there is not
measured again. Values of each image and method lie in ``benchmarks/mammograms``.
"""

import argparse
import filecmp
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XAI_PROGRESS", "off")

import mammogram_measures as measures
import numpy as np
from mammogram_networks import CHOICES, FOLDS, Trained, has_maps, images_of, run
from mammogram_page import page

from xaiutils.files import write_text

RESULTS = Path(__file__).with_suffix(".json")
HITS = RESULTS.with_suffix("")


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def once(keys: Sequence[str], make: Callable[[], Any]) -> Any:
    """The result at ``keys``; made and written where it is not there. Others may write in the meantime."""
    found: Any = read()
    for key in keys:
        found = found.get(key) if found else None
    if found is None:
        found, results = make(), read()
        inner = results
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = found
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    print(*keys, json.dumps(found)[:400], flush=True)
    return found


def take(folder: Path, cache: Path) -> None:
    """The results of networks trained elsewhere; those that were saved and are not here are copied into the cache. What
    was measured of another network of the same name is dropped, also what it had a part in. ValueError where the cache
    holds another of that name."""
    results = read()
    for path in sorted(folder.glob("*/found.json")):
        found = json.loads(path.read_text())
        name, made = found["network"], found["found"]
        model, own = path.parent / "model.keras", Trained.of(name).folder(cache)
        if model.exists() and not own.exists():
            shutil.copytree(path.parent, own)
        elif model.exists() and not filecmp.cmp(model, own / "model.keras", shallow=False):
            raise ValueError(f"{own} holds another network than {path.parent}; move it away.")
        if results.get(name) != made:
            for step in ("test", "gate", "detection", "maps"):
                kept = {n: x for n, x in results.get(step, {}).items() if name not in n.split(" + ")}
                results |= {step: kept} if step in results else {}
        results[name] = made
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")


def measure_maps(network: Trained, args: argparse.Namespace) -> None:
    """Each kind of map of a network, the cheapest first."""
    model = network.model(args.cache)
    ds = measures.some(images_of(network, args.cache, args.data_dir, "test"), args.images)
    val_ds = images_of(network, args.cache, args.data_dir, "val")
    val_ds = measures.some(val_ds.select(np.flatnonzero(val_ds.labels == measures.TARGET)), args.validation)
    p = measures.softmax(measures.logits_of(model, ds), axis=1) if args.images else measures.probabilities_of(
        network, args.cache, args.data_dir)  # fmt: skip
    part = f"{len(ds)} images"
    for name in args.methods or measures.MAPS:
        if name == measures.HEAT_MAP and not has_maps(model):
            continue
        folder = network.folder(args.cache) / f"maps chosen on {len(val_ds)}"

        def make(name: str = name, folder: Path = folder) -> dict[str, Any]:
            made, why = measures.refusal(lambda: measures.scores_of(name, model, ds, val_ds, folder))
            if made is None:
                return {"refused": why}
            table, cost = made
            measures.add_hits(HITS / f"{network.folder(args.cache).name}_{len(ds)}.csv", name, table, ds, p)
            return measures.maps_found(table, ds, p) | cost | {"validation images": len(val_ds)}

        once(["maps", str(network), part, name], make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="a folder for about 9 GB")
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--choices", nargs="+", default=["boxes"], choices=CHOICES)
    parser.add_argument("--folds", nargs="+", default=["official"], choices=FOLDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--networks", nargs="+", type=Trained.of, help="'choice | fold | seed', in place of these")
    for step in ("test", "mean", "gate", "detection", "maps", "page"):
        parser.add_argument(f"--{step}", action="store_true")
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="the cache of mammograms_gpu.py")
    parser.add_argument("--images", type=int, default=0, help="of --maps and --gate: so many images; 0: all")
    parser.add_argument("--validation", type=int, default=0, help="of --maps: malignant images for settings; 0: all")
    parser.add_argument("--methods", nargs="+", choices=measures.MAPS, metavar="MAP", help="of --maps")
    args = parser.parse_args()
    steps = [step for step in ("test", "mean", "gate", "detection", "maps", "page") if getattr(args, step)]
    if args.take:
        take(args.take, args.cache)
        return
    if steps != ["page"] and (args.cache is None or args.data_dir is None):
        parser.error("give --cache, and --data_dir or XAI_KIT")
    networks = args.networks or [Trained(c, f, s) for s in args.seeds for f in args.folds for c in args.choices]
    where = (args.cache, args.data_dir)
    for network in networks if steps != ["page"] else []:
        if not steps:
            args.cache.mkdir(parents=True, exist_ok=True)
            once([str(network)], lambda network=network: run(network, *where))
        if args.test:
            once(["test", str(network)], lambda network=network: measures.of_test([network], *where))
        for split in ("test", "val") if args.gate else ():
            keys = ["gate", str(network), split if not args.images else f"{split}, {args.images} images"]
            once(keys, lambda network=network, split=split: measures.gate(
                network.model(args.cache), measures.some(images_of(network, *where, split), args.images)
            ))  # fmt: skip
        if args.detection and CHOICES[network.choice].head:
            once(["detection", str(network)], lambda network=network: measures.detection(
                network.model(args.cache), images_of(network, *where, "test")
            ))  # fmt: skip
        if args.maps:
            measure_maps(network, args)
    if args.mean:
        once(["test", " + ".join(map(str, networks))], lambda: measures.of_test(networks, *where))
    if args.page:
        write_text(RESULTS.with_suffix(".md"), page(read()))


if __name__ == "__main__":
    main()
