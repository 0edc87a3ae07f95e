"""Studies with readers: the design holds, wrong answers are named, and simulated readers' skill is found again."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from xaiutils.evaluation.readers.answers import read_answers
from xaiutils.evaluation.readers.design import ARMS, SHAM_ARM, SHAMS, read_design, reading_design, williams
from xaiutils.evaluation.readers.mrmc import mrmc
from xaiutils.evaluation.readers.reading import (
    agreement_by_map,
    judged,
    kappas,
    region_mask,
    region_overlap,
    trust_calibration,
)
from xaiutils.evaluation.readers.simulated import simulate_answers
from xaiutils.files import csv_text

CLASSES = ("benign", "malignant")
SKILL = {ARMS[0]: 1.0, ARMS[1]: 1.0, ARMS[2]: 2.0, SHAM_ARM: 1.0}


def truth_of(n, wrong=4):
    """``n`` images, every other malignant; the model errs on every ``wrong``-th pair."""
    label = np.arange(n) % 2
    predicted = np.where(np.arange(n) // 2 % wrong == 0, 1 - label, label)
    names = {"label": np.take(CLASSES, label), "predicted": np.take(CLASSES, predicted)}
    return pd.DataFrame({"image": [f"patient-{k}" for k in range(n)], **names})


def saved(folder, files):
    paths = [folder / f"{file['reader']}.json" for file in files]
    for path, file in zip(paths, files, strict=True):
        path.write_text(json.dumps(file))
    return paths


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five readers of 40 images, and their judged answers."""
    truth = truth_of(40)
    design = reading_design(truth["image"], 5, repeats=0.25, salt="s")
    masks = np.zeros((40, 32, 32), bool)
    masks[1::2, 20:26, 4:10] = True
    trust = {ARMS[1]: 3.0}
    files = simulate_answers(design, truth, SKILL, trust, masks, seed=5)
    paths = saved(tmp_path_factory.mktemp("answers"), files)
    answers = read_answers(paths, design, CLASSES)
    return truth, design, files, answers, judged(answers.table, truth, "malignant"), masks


@pytest.mark.parametrize("n", [3, 4])
def test_each_arm_stands_in_each_place_and_follows_each_other_alike(n):
    square = williams(n)
    assert all(len(set(column)) == n for column in square[:n].T)
    follows = [pair for row in square for pair in pairwise(row)]
    assert {follows.count(pair) for pair in follows} == {len(square) // n}
    assert len(set(follows)) == n * (n - 1)


def test_every_reader_reads_every_image_in_every_arm_once_and_nothing_gives_ids_away(study):
    _, design, *_ = study
    once = design[~design["repeat"]]
    assert (once.groupby(["reader", "image", "arm"]).size() == 1).all()
    assert len(once) == 5 * 40 * 4
    assert (once.groupby(["reader", "session", "image"]).size() == 1).all()
    assert (once.groupby(["reader", "session", "arm"]).size() == 10).all()  # each session holds all arms alike
    assert design["repeat"].sum() == 5 * 10
    again = design[design["repeat"]].merge(once[once["session"] == 1], on=["reader", "image"])
    assert (again["arm_x"] == again["arm_y"]).all()
    sham = once[once["arm"] == SHAM_ARM]
    assert (sham.groupby(["reader", "map"]).size() == 20).all()
    other = sham["map"] == SHAMS[0]
    assert (sham["image"] != sham["map_of"])[other].all()
    assert (sham["image"] == sham["map_of"])[~other].all()
    assert not design["code"].str.contains("patient").any()
    assert design["trial"].is_unique
    assert design[["study", "trial", "code"]].map(str.isalpha).all(axis=None)  # a code of digits is read as a number
    assert set(design["code"]).isdisjoint(reading_design(["patient-0", "patient-1"], 1)["code"])
    with pytest.raises(ValueError, match="2 ids, 1 of them different"):
        reading_design(["a", "a"], 1)


def test_a_design_comes_back_from_its_file_as_it_was(tmp_path):
    design, path = reading_design(["0007", "1e5", "NA"], 2, repeats=0.4), tmp_path / "design.csv"
    path.write_text("\ufeff" + csv_text(design), encoding="utf-8")  # as a spreadsheet saves it
    pd.testing.assert_frame_equal(read_design(path), design)
    for change, match in (
        (lambda t: t.drop(columns="arm"), "design.csv is no design: columns"),
        (lambda t: t[:0], "design.csv is no design"),
        (lambda t: t.assign(session="first"), "whole numbers"),
        (lambda t: t.assign(repeat="perhaps"), "'Perhaps'"),
    ):
        path.write_text(csv_text(change(design)), encoding="utf-8")
        with pytest.raises(ValueError, match=match):
            read_design(path)


def test_wrong_answers_are_refused_by_name(study, tmp_path):
    _, design, files, *_ = study
    path = tmp_path / "R1.json"

    def refused(change, match):
        file = json.loads(json.dumps(files[0]))
        change(file)
        path.write_text(json.dumps(file))
        with pytest.raises(ValueError, match=match):
            read_answers([path], design, CLASSES, complete=False)

    first = files[0]["answers"][0]["trial"]
    refused(lambda f: f.update(study="x"), "R1.json answers the study 'x'")
    refused(lambda f: f.update(reader="R9"), "R1.json is by 'R9', who is no reader")
    refused(lambda f: f.update(consent=False), "R1 did not consent")
    refused(lambda f: f["answers"][0].update(trial="t"), "'t' is no reading of R1")
    refused(lambda f: f["answers"][0].update(confidence=101), f"reading {first} of R1 has .*'confidence': 101")
    refused(lambda f: f["answers"][0].update(region=[[[0, 0], [2, 0], [0, 1]]]), "'region'")
    refused(lambda f: f["answers"].append({**f["answers"][0], "seconds": 1}), "has another answer")
    refused(lambda f: f.update(causability=[5, 5]), "expected ten answers")
    refused(lambda f: f.pop("answers"), "no list 'answers'")
    refused(lambda f: f["answers"][0].update(findings="mass"), "'findings': 'mass'")
    refused(lambda f: f["answers"][0].update(trial=["t"]), "no reading of R1")
    two = [{**files[0], "causability": [k] * 10} for k in (1, 5)]
    for k, file in enumerate(two):
        (tmp_path / f"{k}.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match="another causability"):
        read_answers([tmp_path / "0.json", tmp_path / "1.json"], design, CLASSES, complete=False)
    with pytest.warns(UserWarning, match="680 readings have no answer"):
        read_answers([tmp_path / "0.json"], design, CLASSES, complete=False)
    path.write_text("{")
    with pytest.raises(ValueError, match="R1.json is not a file of answers"):
        read_answers([path], design, CLASSES)
    with pytest.raises(ValueError, match="680 readings have no answer, by reader: {'R2': 170"):
        read_answers(saved(tmp_path, files[:1]), design, CLASSES)


def test_the_planted_skill_is_recovered(study):
    _, _, _, answers, table, _ = study
    found = mrmc(table)
    by_arm = found.arms.set_index("arm")
    for arm in (ARMS[0], ARMS[2], SHAM_ARM):
        assert by_arm.loc[arm, "low"] < norm.cdf(SKILL[arm] / np.sqrt(2)) < by_arm.loc[arm, "high"]
    pairs = found.pairs.set_index(["a", "b"])
    assert pairs.loc[(ARMS[0], ARMS[2]), "low"] > 0
    assert pairs.loc[(ARMS[2], SHAM_ARM), "high"] < 0
    assert pairs.loc[(ARMS[0], SHAM_ARM), "p_holm"] > 0.1
    assert len(answers.causability) == 5
    assert answers.causability["score"].between(0.4, 1).all()
    accuracy = mrmc(table, "accuracy").arms.set_index("arm")["mean"]
    once = table[~table["repeat"]]
    assert accuracy[ARMS[2]] == pytest.approx(once[once["arm"] == ARMS[2]]["correct"].mean())
    with pytest.raises(ValueError, match="1 readings are missing"):
        mrmc(once.iloc[1:])


def test_blind_trust_is_told_from_trust_at_the_right_time(study):
    *_, table, _ = study
    found = trust_calibration(table).set_index(["arm", "model"])
    assert found.loc[(ARMS[1], "wrong"), "low"] > found.loc[(ARMS[0], "wrong"), "high"]  # follows errors
    assert found.loc[(ARMS[1], "difference"), "high"] < found.loc[(ARMS[2], "difference"), "low"]
    group = table[(table["arm"] == ARMS[1]) & ~table["repeat"] & table["model_correct"]]
    assert found.loc[(ARMS[1], "right"), "mean"] == pytest.approx(group["follows"].mean())


def test_ratings_and_regions_know_shams(study):
    truth, *_, table, masks = study
    ratings = agreement_by_map(table).set_index("map")
    assert ratings.loc["model", "low"] > ratings.loc[list(SHAMS), "high"].max() + 1
    maps = {"model": masks.astype(float), "noise": np.random.default_rng(0).random(masks.shape)}
    overlap = region_overlap(table[table["positive"]], list(truth["image"]), maps).groupby("method")["value"].mean()
    assert overlap["model"] > 0.2 > overlap["noise"]
    square = [[[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]]
    assert np.array_equal(np.argwhere(region_mask(square, (4, 4))), [[1, 1], [1, 2], [2, 1], [2, 2]])


def test_kappa_by_hand():
    """Ratings 1 1 2 3 and 1 2 2 3: one of four differs, by 1; of the 16 pairs the squares
    sum to 20."""
    rows = [("R1", k, a) for k, a in enumerate((1, 1, 2, 3))] + [("R2", k, a) for k, a in enumerate((1, 2, 2, 3))]
    table = pd.DataFrame(rows, columns=["reader", "image", "agreement"])
    table = table.assign(arm=ARMS[2], repeat=False, diagnosis="benign")
    found = kappas(pd.concat([table, table[table["reader"] == "R1"].assign(repeat=True)]), CLASSES)
    rated = found[found["item"] == "agreement"].set_index("kind")
    assert rated.loc["inter", "kappa"] == pytest.approx(1 - (1 / 4) / (20 / 16))
    assert (rated.loc["intra", "kappa"], rated.loc["intra", "n"]) == (1, 4)
    assert found[found["item"] == "diagnosis"]["kappa"].isna().all()


def test_it_is_the_test_of_dorfman_berbaum_and_metz():
    """Their F from an analysis of variance of pseudovalues, normalised (Hillis et al. 2005), on uneven readers."""
    rng, (t, r, n) = np.random.default_rng(0), (3, 4, 20)
    positive = np.arange(n) < 9
    scores = (
        rng.normal(size=(t, r, n)) + rng.normal(size=(t, 1, n)) + positive * np.linspace(0.5, 1.5, t)[:, None, None]
    )
    scores = scores.round(1)  # with ties
    names = [
        (f"arm{i}", f"R{j}", k, positive[k], scores[i, j, k]) for i in range(t) for j in range(r) for k in range(n)
    ]
    found = mrmc(pd.DataFrame(names, columns=["arm", "reader", "image", "positive", "score"]))

    def auc(s, p):
        return np.mean([(a > b) + 0.5 * (a == b) for a in s[p] for b in s[~p]])

    keep = ~np.eye(n, dtype=bool)
    theta = np.array([[auc(s, positive) for s in arm] for arm in scores])
    without = np.array([[[auc(s[k], positive[k]) for k in keep] for s in arm] for arm in scores])
    y = n * theta[..., None] - (n - 1) * without
    y += (theta - y.mean(axis=2))[..., None]
    m = y.mean()
    a, b, c = y.mean((1, 2)), y.mean(2), y.mean(1)
    ms_t = r * n * ((a - m) ** 2).sum() / (t - 1)
    tr = b - a[:, None] - y.mean((0, 2)) + m
    tc = c - a[:, None] - y.mean((0, 1)) + m
    rest = y - b[:, :, None] - c[:, None, :] - y.mean(0) + a[:, None, None]
    rest += y.mean((0, 2))[:, None] + y.mean((0, 1)) - m
    ms_tr = n * (tr**2).sum() / ((t - 1) * (r - 1))
    ms_tc = r * (tc**2).sum() / ((t - 1) * (n - 1))
    ms_trc = (rest**2).sum() / ((t - 1) * (r - 1) * (n - 1))
    assert ms_tc > ms_trc
    assert found.f == pytest.approx(ms_t / (ms_tr + ms_tc - ms_trc))
    np.testing.assert_allclose(found.merits, theta)


def test_power_is_alpha_without_a_difference_and_grows(study):
    found = mrmc(study[4])
    assert found.power(0.0, 5, 40) == pytest.approx(0.05)
    assert 0.05 < found.power(0.05, 5, 40) < found.power(0.05, 10, 40) < found.power(0.05, 10, 200) < 1
