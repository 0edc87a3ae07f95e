"""The page of `benchmarks/mammograms.py` says which aims were reached, missed, or not measured."""

from mammogram_networks import CHOICES, Trained
from mammogram_page import page


def test_aims_count_only_what_passes_the_gate():
    name, shortcut = "boxes | official | 0", "frozen at 320 px | official | 0"
    auc = {level: [0.81, 0.7, 0.9, 361, 145] for level in ("image", "breast", "patient")}
    better = {level: [0.9, 0.8, 0.95, 361, 145] for level in auc}
    points = {"all": [0.7, 0.6, 0.8, 361, 0.01]}
    gone = {"evidence gone": {"before, after": [0.8, 0.6], "loss": [0.2, 0.1, 0.3]}}
    said = {"sentence": "It.", "notes": [], "groups": {}, "AUC": gone}
    results = {
        name: {"auc": 0.8, "auc by breast": 0.82},
        "test": {name: {"AUC": auc, "points": points}, shortcut: {"AUC": better}},
        "gate": {
            name: {"test": said | {"verdict": "uses the evidence"}},
            shortcut: {"test": said | {"verdict": "does not use the evidence, or hardly"}},
        },
    }
    text = page(results)
    aims = text[text.index("## Aims") :]
    assert "by image, 0.80: reached, 0.810 at best" in aims
    assert "by breast, 0.83: **missed**, 0.810 at best" in aims
    assert "in all images, 0.75: **missed**, 0.700 at best" in aims
    assert "mean of networks by image, 0.83: not measured" in aims
    assert f"cross-validation: {', '.join(CHOICES)}." in text
    assert str(Trained.of(name)) == name
