"""The page of `mammograms.py`: ``mammograms.md`` from ``mammograms.json``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from mammogram_measures import MAPS
from mammogram_networks import CHOICES, Trained
from methods import as_markdown

REFERENCES = """
| who | images | what |
| --- | --- | --- |
| Shen et al. 2019 (patches, then images) | CBIS-DDSM, own split, 1152 x 896 | AUC .88 of one network, .91 of four |
| GMIC, Shen et al. 2021 | CBIS-DDSM, official split, 2944 x 1920 | AUC .86 of two views |
| Cerekci et al. 2024 | 748 screened women | Grad-CAM points at .41 of the cancers |
| CorRELAX 2025 | VinDr-Mammo | pointing .64 and .56 |
| LEM 2025 | mammograms | Dice .37 |

Images, splits, sizes and the definitions of a hit differ: they stand beside our numbers, not against them.
"""
COLLAPSE = """
**Labels alone** says little of what labels can do. Of six validation images looked at, .95 and more of the attention
lies in the four corner places of 1,900, with the same shares in all (.42, .30, .21, .04): it goes by where a place is,
not by what it shows. `train` now warns of that. The mean over all places, which has no attention to lose, is .03
better. Trained twice by one seed, the GPU's sums in another order each time, the official network had .65 and .57. A
fair network without boxes (Shen's) needs another start than this recipe's.
"""
CONCLUSIONS = """
A radiologist may take the heat map of a network that passes the gate as where *this network* took its answer from.
They may not take it for a contour, nor a lesion that it leaves out for absent. They may not read any map, however
neat, of a network that fails the gate: its answer comes from elsewhere, and a map that lies on the lesion is then a
coincidence. They may not take an AUC on these digitised films, of masses alone and every image with one, for that on
screening mammograms. And they may not take a map for a reason: it says where the network looked, not whether what it
made of it is right.
"""
_COLUMNS = ("auc", "auc by breast", "points", "points, malignant", "points, malignant called malignant")


def page(results: Mapping[str, Any]) -> str:
    """All sections; what has not been measured is named."""
    return "\n\n".join(
        [
            "# Whole mammograms: a network that uses the lesion",
            "Masses of CBIS-DDSM, 1107 / 124 / 361 images, EfficientNet-Lite0 with ImageNet's weights, by `python "
            "benchmarks/mammograms.py`; `mammograms_gpu.py` trains the same networks in half a minute each. A score is "
            "the mean of an image and its up-down mirrored twin. Intervals are of 95 %, by the bootstrap of patients. "
            "Values of each image and map lie in `benchmarks/mammograms`.",
            "## Choices, on training patients left out",
            _choices(results),
            COLLAPSE.strip(),
            "## The official test",
            _test(results.get("test", {})),
            "## Does it use the lesion?",
            _gates(results.get("gate", {})),
            "## Whose maps find the lesion",
            _maps(results.get("maps", {})),
            "## Lesions found",
            _detection(results.get("detection", {})),
            "## Beside the literature",
            REFERENCES.strip(),
            "## Aims",
            aims(results),
            "## What may be concluded",
            CONCLUSIONS.strip(),
        ]
    ) + "\n"  # fmt: skip


def interval(row: list[float], digits: int = 3) -> str:
    """[value, low, high, ...] as a text."""
    value, low, high = row[:3]
    said = f"{value:.{digits}f}"
    return said if low is None or high is None else f"{said} [{low:.{digits}f}, {high:.{digits}f}]"


def _cell(name: str) -> str:
    """A network's name where bars part columns."""
    return name.replace(" | ", " / ")


def _choices(results: Mapping[str, Any]) -> str:
    runs = {name: found for name, found in results.items() if name.count(" | ") == 2}
    rows = []
    for choice in CHOICES:
        for kind, official in (("5 folds", False), ("the loader's tenth", True)):
            mine = {Trained.of(n): x for n, x in runs.items() if n.startswith(f"{choice} | ")}
            mine = {n: x for n, x in mine.items() if (n.fold == "official") == official}
            if mine:
                numbers = {c: [x[c] for x in mine.values() if c in x] for c in _COLUMNS}
                cells = {c: _spread(values) for c, values in numbers.items()}
                if not official:
                    cells["auc less that of boxes"] = _spread(_differences(mine, runs))
                rows.append({"choice": choice, "left out": kind, "networks": len(mine), **cells})
    lacking = [c for c in CHOICES if not any(r["choice"] == c and r["left out"] == "5 folds" for r in rows)]
    said = f"\n\n**Not measured** by cross-validation: {', '.join(lacking)}." if lacking else ""
    devices = sorted({str(x.get("device", "the processor")) for x in runs.values()})
    said += f"\n\nIn brackets the lowest and the highest of the networks. Trained on: {'; '.join(devices)}."
    return (as_markdown(pd.DataFrame(rows).fillna("")) if rows else "Not measured.") + said


def _differences(mine: Mapping[Trained, Any], runs: Mapping[str, Any]) -> list[float]:
    """The AUCs less those of the choice "boxes" of the same fold and seed, where it was measured."""
    others = {n: runs.get(str(n._replace(choice="boxes"))) for n in mine}
    return [x["auc"] - other["auc"] for n, x in mine.items() if n.choice != "boxes" and (other := others[n])]


def _spread(values: list[float]) -> str:
    """The mean, and the range of several networks."""
    if not values:
        return ""
    return f"{np.mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def _test(tests: Mapping[str, Any]) -> str:
    if not tests:
        return "Not measured."
    parts = list(dict.fromkeys(part for found in tests.values() for part in found["AUC"]))
    table = {"AUC": [f"{part}" for part in parts]}
    for name, found in tests.items():
        rows = [found["AUC"].get(part) for part in parts]
        table[_cell(name)] = [f"{interval(r)}, {r[4]} of {r[3]}" if r else "" for r in rows]
    said = ["The columns: AUC with its interval, and how many are malignant.", as_markdown(pd.DataFrame(table))]
    pointing = [
        {"network": _cell(name), "images": group, "points": interval(row), "n": row[3], "chance": f"{row[4]:.3f}"}
        for name, found in tests.items()
        for group, row in found.get("points", {}).items()
    ]
    if pointing:
        said += ["Where the heat map has its maximum:", as_markdown(pd.DataFrame(pointing))]
    return "\n\n".join(said)


def _gates(gates: Mapping[str, Any]) -> str:
    """A row for each network and split, and the verdicts in words."""
    if not gates:
        return "Not measured."
    rows, said = [], []
    for name, splits in gates.items():
        for split, found in splits.items():
            gone = found["AUC"]["evidence gone"]
            shares = {f"share, {group}": interval(x["share"], 2) for group, x in found["groups"].items()}
            before, after = gone["before, after"]
            rows.append(
                {"network": _cell(name), "images": split, "verdict": found["verdict"], **shares, "AUC": before}
                | {"all lesions gone": after, "loss": interval(gone["loss"])}
            )
            said.append(f"- {name}, {split}: {' '.join([found['sentence'], *found['notes']])}")
    lead = "Each lesion, and a healthy place of its form, is painted over (`xai.evidence_use`); share: of what speaks "
    lead += "for the class, in images called right. Scores are of the image without its twin."
    return "\n\n".join([lead, as_markdown(pd.DataFrame(rows)), "\n".join(said)])


def _maps(maps: Mapping[str, Any]) -> str:
    said = []
    for name, parts in maps.items():
        for part, kinds in parts.items():
            made = {kind: x for kind, x in kinds.items() if "refused" not in x}
            refused = [f"{kind} ({x['refused']})" for kind, x in kinds.items() if "refused" in x]
            chosen = {x["validation images"] for x in made.values()}
            said.append(
                f"**{name}**, {part}, maps of \"malignant\" by magnitude (mag) and positive part (pos). Settings are "
                f"the best on {' or '.join(map(str, sorted(chosen)))} malignant validation images."
            )  # fmt: skip
            said.append(as_markdown(pd.DataFrame([_map_row(kind, x) for kind, x in made.items()])))
            said += [f"Refused: {'; '.join(refused)}."] if refused else []
            left = [kind for kind in MAPS if kind not in kinds]
            said += [f"Not measured yet of this network: {'; '.join(left)}."] if left else []
    lacking = "RISE, LIME, Score-CAM, Ablation-CAM, prediction difference, XRAI and expected gradients"
    return "\n\n".join([*(said or ["Not measured."]), f"Not measured, for their hundreds of passes: {lacking}."])


def _map_row(kind: str, found: Mapping[str, Any]) -> dict[str, str]:
    row = {"map": kind, "settings": ", ".join(f"{k} {v}" for k, v in found["settings"].items())}
    for reading, short in (("magnitude", "mag"), ("positive", "pos")):
        for group, said in (("all", "all"), ("malignant called malignant", "called malignant")):
            row[f"points, {said}, {short}"] = interval(found[reading]["points"].get(group, [np.nan] * 3), 2)
        row[f"pixel AUC, {short}"] = interval(found[reading]["pixel AUC"]["all"], 2)
    return row | {"chance": f"{found['magnitude']['points']['all'][4]:.3f}", "CPU s": f"{found['CPU s a map']:.2f}"}


def _detection(found: Mapping[str, Any]) -> str:
    if not found:
        return "Not measured."
    rates = [row["rate"] for row in next(iter(found.values()))]
    table = {"false finds an image": [f"{rate:g}" for rate in rates]}
    for name, rows in found.items():
        table[f"{_cell(name)}, of {rows[0]['lesions']:.0f} lesions"] = [
            interval([r["sensitivity"], r["low"], r["high"]]) for r in rows
        ]
    return as_markdown(pd.DataFrame(table))


def aims(results: Mapping[str, Any]) -> str:
    """A list: each aim with the best measured value, and reached, missed, or not measured."""
    tests, gates = results.get("test", {}), results.get("gate", {})
    passed = [n for n in tests if gates.get(n, {}).get("test", {}).get("verdict", "").startswith("uses the evidence")]
    means = [n for n in tests if " + " in n]
    asked = [
        (f"{what} AUC of {who} by {level}", aim, [tests[n]["AUC"][level][0] for n in names])
        for what, who, names, pairs in (
            ("", "a network that passes the gate", passed, (("image", 0.80), ("breast", 0.83))),
            ("", "a mean of networks", means, (("image", 0.83), ("breast", 0.86))),
        )
        for level, aim in pairs
    ]
    pointing = [tests[n]["points"]["all"][0] for n in passed if "points" in tests[n]]
    asked.append(("the heat map points at the lesion in all images", 0.75, pointing))
    whole = [x for parts in results.get("maps", {}).values() for p, x in parts.items() if p == "361 images"]
    rows = [x["magnitude"]["points"] for kinds in whole for kind, x in kinds.items() if _posthoc(kind, x)]
    for group, aim in (("all", 0.70), ("malignant called malignant", 0.95)):
        asked.append((f"a post-hoc method points at the lesion, {group}", aim, [r[group][0] for r in rows]))
    return "\n".join(f"- {name.strip()}, {aim:.2f}: {_reached(values, aim)}" for name, aim, values in asked)


def _posthoc(kind: str, found: Mapping[str, Any]) -> bool:
    """Not the head's own map, nor a control."""
    controls = ("random", "centre", "edges", "laplace", "intensity", "heat map of the head")
    return "refused" not in found and kind not in controls and not kind.endswith("random weights")


def _reached(values: list[float], aim: float) -> str:
    if not values:
        return "not measured"
    return f"{'reached' if max(values) >= aim else '**missed**'}, {max(values):.3f} at best"
