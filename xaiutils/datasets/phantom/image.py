"""One phantom: anatomy, lesion, marker and detector put together, and the evidence that follows from its twin."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from xaiutils.datasets.phantom import marker
from xaiutils.datasets.phantom.anatomy import Anatomy, draw_anatomy
from xaiutils.datasets.phantom.decoys import draw_decoys
from xaiutils.datasets.phantom.lesions import (
    FIELD_MM,
    Profiles,
    cluster_profiles,
    draw_cluster,
    draw_mass,
    mass_profiles,
    no_lesion,
)
from xaiutils.datasets.phantom.tasks import (
    CLUSTER_RADII,
    CLUSTERS,
    CONCEPTS,
    CONTRASTS,
    DECOYS,
    DEFAULT_DIFFICULTY,
    GRAIN_CONTRASTS,
    LABELS,
    MASSES,
    NORMAL,
    RADII,
    TAG_PROBABILITY,
    TASKS,
    check_task,
)
from xaiutils.registry import check_choice

_BLUR = 0.5  # pixels, of the detector
_NOISE = 0.02  # standard deviation of the noise at brightness 1; quantum noise grows with the root of brightness
_FATTEST = 1 / 3  # of the places that a lesion in company may take: there it is no brighter than gland
# One random stream for each cause: changing the shape, the label or the marker leaves all the rest as it was.
_STREAMS = ("anatomy", "site", "noise", "marker", "choice", *MASSES, *CLUSTERS, "second site", "decoys")


@dataclass(frozen=True)
class Phantom:
    """One generated image and what is known of it. Arrays are ``(size, size)``.

    ``image`` is float32 in [0, 1], ``noise_free`` the same before the detector's noise. ``label`` is the class of the
    task, ``kind`` what the breast holds: "normal", "benign mass", "malignant mass", "benign calcifications" or
    "malignant calcifications". ``evidence``, float32 >= 0, is the absolute difference between the noise-free image and
    its noise-free twin: exactly the pixels that decide between the two classes. Of a benign mass most of it
    lies where its twin's spicules would be, outside the lesion's mask. It is zero for an image without lesion.

    Bool masks: ``lesion`` (a mass with its spicules, or the convex region of a cluster of calcifications), ``core``
    (the body of the mass, or the grains), ``spicules``, ``decoys`` (see `phantom.decoys`; the twin has the same),
    ``breast``, ``pectoral``, ``tag_mask`` (the box of the view marker; empty where ``tag`` is False).

    ``radius_mm`` is that of the uniform disc with the energy (sum of squares) of the mass, spicules included, or that
    of the cluster; ``contrast`` the peak of the lesion above its background as a fraction of the grey range; both are
    NaN without lesion. ``centre`` is the (row, column) where the lesion is or would be. ``density`` is "fatty",
    "scattered", "heterogeneous" or "dense", ``beta`` the exponent of the parenchyma's power spectrum, ``view`` "CC" or
    "MLO", ``side`` "L" or "R". ``landmarks`` float64 ``(3, 2)``: see `anatomy.Anatomy`. ``task`` and
    ``difficulty`` are those it was made for.
    """

    seed: int
    label: int
    kind: str
    image: np.ndarray
    noise_free: np.ndarray
    evidence: np.ndarray
    lesion: np.ndarray
    core: np.ndarray
    spicules: np.ndarray
    decoys: np.ndarray
    breast: np.ndarray
    pectoral: np.ndarray
    tag_mask: np.ndarray
    tag: bool
    view: str
    side: str
    density: str
    beta: float
    centre: tuple[int, int]
    radius_mm: float
    contrast: float
    task: str
    difficulty: str
    landmarks: np.ndarray


@dataclass(frozen=True)
class LabelledPhantom:
    """One image of the task "multi_label" and what is known of it. Arrays are ``(size, size)``, or ``(3, size, size)``
    for `tasks.LABELS`.

    ``labels`` is 1 or 0 for each of mass, calcification and marker; ``masks`` bool: the mass with its spicules, the
    convex region of the cluster, the box of the letters, empty for what is not there. ``evidence`` float32 >= 0: the
    absolute difference between the noise-free image and the one without that finding. ``kinds`` are those of mass and
    cluster, there or not. The rest as in `Phantom`.
    """

    seed: int
    labels: tuple[int, ...]
    image: np.ndarray
    noise_free: np.ndarray
    masks: np.ndarray
    evidence: np.ndarray
    kinds: tuple[str, str]
    contrasts: tuple[float, float]
    view: str
    side: str
    density: str


@dataclass(frozen=True)
class ConceptPhantom:
    """One image in which each of `tasks.CONCEPTS` is shown or not: ``labels`` 1 or 0, ``image`` float32 ``(size,
    size)`` in [0, 1], and ``masks`` bool ``(5, size, size)``: the spicules, the grains, the glandular tissue (of which
    a fatty breast has a little too), the box of the letters, the muscle; empty for what is not there."""

    labels: tuple[int, ...]
    image: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class _Site:
    """Where the lesion is, how large and how bright, whatever its kind. ``extent`` and ``brightness`` in [0, 1]."""

    centre: tuple[int, int]
    extent: float
    brightness: float


def generate(
    seed: int,
    size: int = 224,
    task: str = "margin",
    difficulty: str = DEFAULT_DIFFICULTY,
    *,
    label: int | None = None,
    tag: bool | None = None,
    lesion: bool = True,
    tag_probability: float = TAG_PROBABILITY,
) -> Phantom:
    """Draw one phantom.

    Args:
        seed: non-negative; decides everything below that is not given. The class is ``seed`` modulo the number of
            classes, so that every run of consecutive seeds is balanced.
        size: height and width in pixels, of a field of 224 mm. Calcifications are 1 to 3 pixels wide at 224 and not
            under one pixel in smaller images, where their forms are lost and only their number and places tell: a
            frozen EfficientNet-Lite0 with a linear head reaches an AUC of about 0.8 at 224 and of 0.97 at 448.
        task: "presence", "margin", "calcifications", "shortcut" or "five"; see `TASKS`.
        difficulty: "easy": the lesion alone; "medium": smaller, of half the contrast, in fat and in the company of
            decoys; "hard": the same with a quarter of the contrast.
        label: another class than the seed's, all else unchanged.
        tag: whether the view marker is there; by default drawn, in "shortcut" with ``tag_probability`` for malignant
            and one minus that for benign seeds, else with even chances.
        lesion: False leaves the lesion out (``label`` stays).
        tag_probability: between 0 and 1; used by "shortcut".
    """
    check_task(task, difficulty, tag_probability)
    chosen = TASKS[task]
    own_label = int(seed) % len(chosen.class_names)
    label = own_label if label is None else int(label)
    if not 0 <= label < len(chosen.class_names):
        raise ValueError(f"label={label}; task {task!r} has the labels 0 to {len(chosen.class_names) - 1}.")
    anatomy = draw_anatomy(_stream(seed, "anatomy"), size)
    site = _draw_site(_stream(seed, "site"), anatomy, difficulty)
    anatomy, decoys = _in_company(seed, anatomy, [site], difficulty)
    kind = _kind(seed, task, label) if lesion else NORMAL
    profiles, contrast = _lesion(seed, kind, site, difficulty, size)
    letters, box = marker.draw_marker(_stream(seed, "marker"), size, anatomy.side, anatomy.view)
    tag = _draw_tag(seed, task, own_label, tag_probability) if tag is None else bool(tag)
    noise_free = _exposed(anatomy, profiles, contrast, letters & tag)
    evidence = np.zeros_like(noise_free)
    if kind != NORMAL:
        twin, twin_contrast = _lesion(seed, _kind(seed, task, chosen.twins[label]), site, difficulty, size)
        evidence = np.abs(noise_free - _exposed(anatomy, twin, twin_contrast, letters & tag))
    return Phantom(
        seed=int(seed),
        label=label,
        kind=kind,
        image=_with_noise(_stream(seed, "noise"), noise_free),
        noise_free=noise_free,
        evidence=evidence,
        lesion=profiles.lesion,
        core=profiles.core,
        spicules=profiles.spicules,
        decoys=decoys,
        breast=anatomy.breast,
        pectoral=anatomy.pectoral,
        tag_mask=box & tag,
        tag=tag,
        view=anatomy.view,
        side=anatomy.side,
        density=anatomy.density,
        beta=anatomy.beta,
        centre=site.centre,
        radius_mm=float("nan") if kind == NORMAL else _radius_mm(kind, site.extent, difficulty),
        contrast=float("nan") if kind == NORMAL else contrast,
        task=task,
        difficulty=difficulty,
        landmarks=anatomy.landmarks,
    )


def counterfactual(phantom: Phantom) -> Phantom:
    """The twin of a phantom: the same breast, place, contrast, marker and noise, with the lesion of the class that it
    is distinguished from (of five classes: the other margin or the other calcifications; for a normal breast, the
    benign mass)."""
    twin = TASKS[phantom.task].twins[phantom.label]
    size = phantom.image.shape[0]
    return generate(phantom.seed, size, phantom.task, phantom.difficulty, label=twin, tag=phantom.tag)


def seed_labels(seed: int, n: int = len(LABELS)) -> tuple[int, ...]:
    """The ``n`` labels of a seed: its lowest bits. Among 2^n consecutive seeds each combination occurs once, so that no
    label tells of another."""
    return tuple(int(seed) >> bit & 1 for bit in range(n))


def _checked_labels(labels: tuple[int, ...] | None, seed: int, names: tuple[str, ...]) -> tuple[int, ...]:
    labels = seed_labels(seed, len(names)) if labels is None else tuple(labels)
    if len(labels) != len(names) or not set(labels) <= {0, 1}:
        raise ValueError(f"labels={labels!r}; expected 0 or 1 for each of {', '.join(names)}.")
    return labels


def generate_labelled(
    seed: int, size: int = 224, difficulty: str = DEFAULT_DIFFICULTY, labels: tuple[int, ...] | None = None
) -> LabelledPhantom:
    """Draw one image in which a mass, a cluster of calcifications and a view marker are or are not.

    ``seed`` and ``size`` as of `generate`; ``labels`` are others than `seed_labels`, all else unchanged. Place and form
    of the one do not depend on whether the other is there. Mass and cluster are benign or malignant with even chances,
    which no label tells; the cluster lies beside the mass, unless the breast is too small.
    """
    check_choice("difficulty", difficulty, CONTRASTS)
    labels = _checked_labels(labels, seed, LABELS)
    anatomy, sites = _two_sites(seed, draw_anatomy(_stream(seed, "anatomy"), size), difficulty)
    chosen = _stream(seed, "choice").integers(2, size=2)
    kinds = (MASSES[chosen[0]], CLUSTERS[chosen[1]])
    (mass, bright), (cluster, bright_grains) = (
        _lesion(seed, kind, site, difficulty, size) for kind, site in zip(kinds, sites, strict=True)
    )
    letters, box = marker.draw_marker(_stream(seed, "marker"), size, anatomy.side, anatomy.view)

    def seen(present: tuple[int, ...]) -> np.ndarray:
        findings = [(mass, present[0] * bright), (cluster, present[1] * bright_grains)]
        return _exposed_findings(anatomy, findings, letters & bool(present[2]))

    noise_free = seen(labels)
    without = [tuple(y * (i != j) for i, y in enumerate(labels)) for j in range(len(labels))]
    return LabelledPhantom(
        seed=int(seed),
        labels=labels,
        image=_with_noise(_stream(seed, "noise"), noise_free),
        noise_free=noise_free,
        masks=np.stack([m & bool(y) for m, y in zip((mass.lesion, cluster.lesion, box), labels, strict=True)]),
        evidence=np.stack([np.abs(noise_free - seen(others)) for others in without]),
        kinds=kinds,
        contrasts=(bright, bright_grains),
        view=anatomy.view,
        side=anatomy.side,
        density=anatomy.density,
    )


def generate_concepts(
    seed: int, size: int = 224, difficulty: str = DEFAULT_DIFFICULTY, labels: tuple[int, ...] | None = None
) -> ConceptPhantom:
    """Draw one breast with a mass, in which each of `tasks.CONCEPTS` is shown or not.

    The mass has spicules or is smooth, grains lie beside it (benign and malignant with even chances) or none, the
    breast is dense or fatty, the view marker is there or not, the view is MLO, with the muscle, or CC. ``seed`` and
    ``size`` as of `generate`; ``labels`` are others than `seed_labels`, with all that the seed draws unchanged.
    """
    check_choice("difficulty", difficulty, CONTRASTS)
    labels = _checked_labels(labels, seed, CONCEPTS)
    spicules, grains, dense, tag, pectoral = map(bool, labels)
    view, density = "MLO" if pectoral else "CC", "dense" if dense else "fatty"
    anatomy, sites = _two_sites(seed, draw_anatomy(_stream(seed, "anatomy"), size, view, density), difficulty)
    kinds = MASSES[spicules], CLUSTERS[_stream(seed, "choice").integers(2)]
    found = [_lesion(seed, kind, site, difficulty, size) for kind, site in zip(kinds, sites, strict=True)]
    letters, box = marker.draw_marker(_stream(seed, "marker"), size, anatomy.side, anatomy.view)
    (mass, _), (cluster, _) = found
    noise_free = _exposed_findings(anatomy, found[: 1 + grains], letters & tag)
    masks = np.stack([mass.spicules, cluster.core & grains, anatomy.gland, box & tag, anatomy.pectoral])
    return ConceptPhantom(labels, _with_noise(_stream(seed, "noise"), noise_free), masks)


def _two_sites(seed, anatomy: Anatomy, difficulty: str) -> tuple[Anatomy, list[_Site]]:
    """The breast with its decoys, and the places of a mass and of calcifications beside it."""
    sites = [_draw_site(_stream(seed, "site"), anatomy, difficulty)]
    sites.append(_draw_site(_stream(seed, "second site"), anatomy, difficulty, beside=sites[0]))
    return _in_company(seed, anatomy, sites, difficulty)[0], sites


def _exposed_findings(anatomy: Anatomy, findings: list[tuple[Profiles, float]], letters: np.ndarray) -> np.ndarray:
    """`_exposed` of several findings with their contrasts."""
    for profiles, contrast in findings:
        anatomy = replace(anatomy, tissue=anatomy.tissue + np.float32(contrast) * profiles.added)
    return _exposed(anatomy, no_lesion(len(letters)), 0.0, letters)


def _stream(seed, cause):
    return np.random.default_rng([int(seed), _STREAMS.index(cause)])


def _kind(seed, task, label):
    kinds = TASKS[task].kinds[label]
    return kinds[_stream(seed, "choice").integers(len(kinds))]


def _draw_tag(seed, task, label, tag_probability):
    chance = 0.5 if task != "shortcut" else (1 - tag_probability, tag_probability)[label]
    return bool(_stream(seed, "choice").random(2)[1] < chance)


def _draw_site(rng, anatomy: Anatomy, difficulty: str, beside: _Site | None = None):
    extent, brightness = rng.random(), rng.random()
    radius = _radius_mm(MASSES[0], extent, difficulty) / FIELD_MM
    size = anatomy.breast.shape[0]
    edge = min(int(np.ceil(1.5 * radius * size)), size // 2 - 1)
    free = np.zeros_like(anatomy.breast)
    free[edge : size - edge, edge : size - edge] = True
    if anatomy.pectoral.any():
        free &= ndimage.distance_transform_edt(~anatomy.pectoral) > radius * size
    if beside is not None:  # out of reach of a mass there with its spicules, whether it is there or not
        rows, columns = np.indices(free.shape)
        reach = (2.2 * _radius_mm(MASSES[0], beside.extent, difficulty) / FIELD_MM + radius) * size
        apart = np.hypot(rows - beside.centre[0], columns - beside.centre[1]) > reach
        free = free & apart if (free & apart & anatomy.breast).any() else free
    # Spicules reach about two radii: most end within the breast, and some are cut at the chest wall, as in patients.
    allowed = np.argwhere(free & (anatomy.depth > 2.2 * radius))
    if len(allowed) and DECOYS[difficulty]:
        around = ndimage.gaussian_filter(anatomy.tissue, radius * size)[*allowed.T]
        allowed = allowed[around <= np.quantile(around, _FATTEST)]
    if len(allowed):
        centre = allowed[rng.integers(len(allowed))]
    else:  # a breast too small for this lesion: its deepest free place
        centre = np.unravel_index(np.argmax(anatomy.depth * (free | ~free.any())), free.shape)
    return _Site((int(centre[0]), int(centre[1])), extent, brightness)


def _radius_mm(kind, extent, difficulty):
    low, high = CLUSTER_RADII if kind in CLUSTERS else RADII[difficulty]
    return low + (high - low) * extent


def _in_company(seed, anatomy: Anatomy, sites: list[_Site], difficulty: str) -> tuple[Anatomy, np.ndarray]:
    """The breast with its decoys, which keep away from what a lesion of any class would reach; and where they are."""
    if not DECOYS[difficulty]:
        return anatomy, np.zeros_like(anatomy.breast)
    taken = [(s.centre, 2.2 * _radius_mm(MASSES[0], s.extent, difficulty)) for s in sites]
    contrasts = CONTRASTS[difficulty], GRAIN_CONTRASTS[difficulty]
    rng = _stream(seed, "decoys")
    added = draw_decoys(rng, anatomy, taken, DECOYS[difficulty], RADII[difficulty], contrasts)
    return replace(anatomy, tissue=anatomy.tissue + added), added > 0.02


def _lesion(seed, kind, site, difficulty, size) -> tuple[Profiles, float]:
    """The lesion of a kind at its site, and its contrast."""
    if kind == NORMAL:
        return no_lesion(size), 0.0
    radius, malignant, rng = (
        _radius_mm(kind, site.extent, difficulty),
        kind.startswith("malignant"),
        _stream(seed, kind),
    )
    low, high = (GRAIN_CONTRASTS if kind in CLUSTERS else CONTRASTS)[difficulty]
    contrast = low + (high - low) * site.brightness
    if kind in CLUSTERS:
        return cluster_profiles(draw_cluster(rng, radius, malignant), site.centre, size), contrast
    return mass_profiles(draw_mass(rng, radius, malignant), site.centre, size), contrast


def _exposed(anatomy, profiles, contrast, letters):
    """What an ideal detector sees."""
    scene = anatomy.tissue + np.float32(contrast) * profiles.added
    scene = np.where(letters, np.float32(marker.BRIGHTNESS), scene)
    return np.clip(ndimage.gaussian_filter(scene, _BLUR), 0, 1)


def _with_noise(rng, noise_free):
    noise = _NOISE * np.sqrt(np.maximum(noise_free, 0.02)) * rng.standard_normal(noise_free.shape, np.float32)
    return np.clip(noise_free + noise, 0, 1).astype(np.float32)
