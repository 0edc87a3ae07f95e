"""What `peers` measures, and its part of the page ``benchmarks/methods.md``."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from rows import Rows, as_markdown

EXPLAINED = (
    "Other libraries on networks of the same weights (PyTorch: timm's, filled from ours; logits equal to 1e-3 of their "
    "largest), on the CPU, with as many threads for PyTorch as for TensorFlow. Ours and theirs are called in turns in "
    "one process, compiled and warm; ours: median seconds. The other columns: how many times longer the library takes, "
    "and in brackets the Spearman correlation of its map with ours (the lowest of the images; nan: a constant map). "
    "`=`: the values agree too, to 1 % of their range, after both maps are set to [0, 1]. Lower correlations are of "
    "random draws (SmoothGrad, RISE, ...) or of another formula.\n\n"
    "DeepLIFT on ResNet-50: ours is right. Maps must sum to the difference of the logits to the baseline's, -.690 and "
    "-.728 for the first two images; ours sum to it within 4e-6, captum 0.9's to -.455 and -.678, in float64 too. Its "
    "rule for max pooling is lost where a ReLU stands right before it (both hook one tensor, and the ReLU's hook reads "
    "the signal before the pooling's has replaced it), and where windows overlap one of them stays "
    "(`max_unpool` overwrites). With a copy between the two modules and the windows added, captum's maps sum to the "
    "difference within 2e-5 and are ours to 3e-4 of their largest value (Spearman .9998).\n\n"
    "LIME: 100 draws for 49 squares. On a small network of its own two seeds of ours correlate by .70 with 100 draws "
    "and by .99 with 5,000; captum, with the authors' kernel and ridge regression, by .70 and .99 with ours (its own "
    "Lasso sets every coefficient of so small a logit to 0), xplique by .74 and .99. On EfficientNet-Lite0, where 100 "
    "draws settle nothing, three seeds of ours correlate by -.16 to .13, with captum and xplique by .12 and .10. The "
    "authors' package explains a probability and hides by mean colours, so it is compared with ours of these settings: "
    ".75 and .85 (Pearson's 1.000) on the small network, two seeds of ours .72 and .93."
)


@dataclass(frozen=True)
class PeerRow:
    """A library's seconds beside ours, or why it was not measured.

    ``spearman`` is the lowest rank correlation of its maps with ours, ``difference`` the largest one between maps that
    are set to [0, 1]."""

    model: str
    images: int
    method: str
    library: str
    parameters: str
    ours: float
    theirs: float
    repeats: int
    spearman: float
    difference: float
    note: str = ""

    @property
    def key(self) -> tuple:
        return self.model, self.images, self.method, self.library, self.parameters

    @property
    def said(self) -> str:
        return (
            f"ours {self.ours:.4g} s, theirs {self.theirs:.4g} s, {self.theirs / self.ours:.2f} times, Spearman "
            f"{self.spearman:.4f}, difference {self.difference:.2g}, {self.repeats} repeats"
        )


def peers_section(path: Path) -> list[str]:
    """The paragraphs of the page, from the rows of ``path``; none where there is no such file."""
    if not path.exists() or not (rows := Rows(path, PeerRow).rows):
        return []
    found = pd.DataFrame([asdict(row) for row in rows.values()])
    timed, rest = found[found.theirs.notna()].copy(), found[found.theirs.isna()]
    paragraphs = ["## Peers on the same weights", EXPLAINED]
    if len(timed):
        timed["times"] = timed.theirs / timed.ours
        exact = (timed.difference < 0.01) & timed.spearman.notna()  # of two constant maps nothing is known
        timed["shown"] = [
            f"{t:.2f} ({'= ' if e else ''}{s:.2f})" for t, s, e in zip(timed.times, timed.spearman, exact, strict=True)
        ]
        index = ["model", "images", "method", "parameters"]
        order = timed[index].drop_duplicates()
        table = timed.pivot(index=index, columns="library", values="shown")[list(timed.library.unique())]
        table.insert(0, "ours, s", timed.groupby(index).ours.first())
        table = table.loc[list(order.itertuples(index=False, name=None))].fillna("").reset_index()
        paragraphs += [_behind(timed), as_markdown(table)]
    if len(rest):
        why = rest.groupby(["library", "method", "note"], sort=False)
        cases = why.apply(
            lambda g: ", ".join(dict.fromkeys(f"{m} ({n})" for m, n in zip(g.model, g.images, strict=True)))
        )
        table = cases.rename("models (images)").reset_index()
        paragraphs += ["Not measured, and why:", as_markdown(table)]
    return paragraphs


def _behind(timed: pd.DataFrame) -> str:
    slower = timed[timed.times < 1]
    named = [f"{r.method} of {r.library} on {r.model}, {r.images} images ({r.times:.2f})" for r in slower.itertuples()]
    return (
        f"Ours is ahead in {len(timed) - len(slower)} of {len(timed)} rows, by {timed.times.median():.2f} times in the "
        f"median. Behind: {'; '.join(named) or 'none'}."
    )
