"""Fixations beside maps: three by three cases worked out by hand, files as their data sets have them, known readers."""

import numpy as np
import pandas as pd
import pytest

from xaiutils.evaluation import gaze

MAP = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], float)  # mean 4, variance 60 / 9


def looks(*places, image="a", reader="R1", duration=100.0):
    """Fixations at (column, row) in a table."""
    x, y = np.array(places, float).T + 0.5
    return pd.DataFrame({"image_id": image, "reader": reader, "x": x, "y": y, "start_ms": 0.0, "duration_ms": duration})


def test_nss_by_hand():
    assert gaze.nss(MAP, looks((2, 2), (1, 1))) == pytest.approx((4 + 0) / np.sqrt(60 / 9) / 2)
    assert np.isnan(gaze.nss(np.ones((3, 3)), looks((0, 0))))


def test_auc_judd_by_hand():
    assert gaze.auc_judd(MAP, looks((2, 2), (1, 2), (2, 2))) == 1
    assert gaze.auc_judd(-MAP, looks((2, 2))) == 0.5  # its one threshold takes all: a straight line
    # Fixated 8 and 4: thresholds 8 (1/2, 0) and 4 (1, 3 of the 7 others); 3/7 under a slope from 1/2 to 1, then 4/7.
    assert gaze.auc_judd(MAP, looks((2, 2), (1, 1))) == pytest.approx(3 / 7 * 0.75 + 4 / 7)
    assert gaze.auc_judd(np.ones((3, 3)), looks((0, 0))) == 0.5


def test_shuffled_auc_takes_off_what_all_images_share():
    assert gaze.shuffled_auc(MAP, looks((2, 2), (1, 1)), looks((0, 0), (2, 1), image="b")) == 0.75
    centre = np.zeros((3, 3))
    centre[1, 1] = 1
    own, others = looks((1, 1), (0, 0)), looks((1, 1), (2, 2), image="b")
    assert gaze.auc_judd(centre, own) > 0.7
    assert gaze.shuffled_auc(centre, own, others) == 0.5


def test_densities_by_hand():
    p, q = np.array([[0.5, 0.5], [0, 0]]), np.array([[0.5, 0.25], [0.25, 0]])
    assert gaze.similarity(p, q) == pytest.approx(0.75)
    assert gaze.correlation(p, q) == pytest.approx((0.25 * 0.25 + 0 - 0 + 0.25 * 0.25) / np.sqrt(0.25 * 0.125))
    assert gaze.divergence(q, q) == pytest.approx(0, abs=1e-12)
    assert gaze.divergence(q, p) == pytest.approx(0.5 * np.log(2))
    assert gaze.divergence(p, q) == pytest.approx(0.25 * np.log(0.5) + 0.25 * np.log(0.25 / 2.220446e-16))
    assert gaze.top_iou(np.array([[4, 3, 2, 1]]), np.array([[4, 1, 3, 2]]), 0.5) == pytest.approx(1 / 3)


def test_a_density_weighs_by_duration_and_sums_to_one():
    table = pd.concat([looks((5, 10), duration=300.0), looks((25, 10), duration=100.0)])
    found = gaze.density(table, (31, 31), 2.0)
    assert found.sum() == pytest.approx(1)
    assert found[10, 5] / found[10, 25] == pytest.approx(3, rel=1e-3)
    assert found[10, 5] / found[10, 7] == pytest.approx(np.exp(0.5), rel=1e-2)  # two pixels off are one sigma
    with pytest.raises(ValueError, match="sigma=0"):
        gaze.density(table, (31, 31), 0)


def test_the_layouts_are_read_and_anything_else_is_refused(tmp_path):
    plain, wrong, egd = (tmp_path / name for name in ("plain.csv", "wrong.csv", "egd.csv"))
    (folder := tmp_path / "P102R108387").mkdir()
    looks((3, 4)).to_csv(plain, index=False)
    head = "timestamp_start_fixation,timestamp_end_fixation,x_position,y_position,pupil_area_normalized\n"
    (folder / "fixations.csv").write_text(head + "7.08,7.293,405,420,1.1\n")
    egd.write_text("DICOM_ID,FPOGS,FPOGD,X_ORIGINAL,Y_ORIGINAL\nd1,2.5,0.25,1000,600\n")
    assert gaze.read_fixations(plain)[["x", "y"]].to_numpy().tolist() == [[3.5, 4.5]]
    looks((3, 4), image="0007", reader="NA").to_csv(plain, index=False)
    (row,) = gaze.read_fixations(plain).to_dict("records")
    assert (row["image_id"], row["reader"], row["x"]) == ("0007", "NA", 3.5)
    (row,) = gaze.read_fixations(folder / "fixations.csv", image_id="d1").to_dict("records")
    assert row["image_id"] == "d1"
    assert row["reader"] == "P102R108387"
    assert (row["start_ms"], row["duration_ms"]) == (pytest.approx(7080), pytest.approx(213))
    (row,) = gaze.read_fixations(egd).to_dict("records")
    assert (row["image_id"], row["x"], row["y"], row["start_ms"], row["duration_ms"]) == ("d1", 1000, 600, 2500, 250)
    with pytest.raises(ValueError, match="egd.csv has the columns DICOM_ID"):
        gaze.read_fixations(egd, "reflacx")
    looks((3, 4)).assign(duration_ms=-1).to_csv(wrong, index=False)
    with pytest.raises(ValueError, match="1 fixations have no finite x, y, start_ms and duration_ms > 0"):
        gaze.read_fixations(wrong)
    wrong.write_text(",".join(gaze.COLUMNS) + "\na,R1,3,4,0,100\na,R1,left,4,0,100\n")
    with pytest.raises(ValueError, match="1 fixations have no finite x.*in row 1"):
        gaze.read_fixations(wrong)
    looks((3, 4), reader="").to_csv(wrong, index=False)
    with pytest.raises(ValueError, match="1 fixations have no image_id or no reader, the first in row 0"):
        gaze.read_fixations(wrong)


def test_fixations_move_to_the_map_and_those_beside_the_image_are_left_out():
    with pytest.warns(UserWarning, match="2 of 3 fixations lie outside"):
        moved = gaze.to_map(looks((99, 199), (100, 10), (-1, 5)), (200, 100), (50, 50))
    assert moved[["x", "y"]].to_numpy().tolist() == [[49.75, 49.875]]
    for score in (gaze.nss, gaze.auc_judd):
        with pytest.raises(ValueError, match="1 fixations lie outside the map"):
            score(MAP, looks((-1, 0), (1, 1)))


def test_fixations_of_other_images_and_maps_of_others_are_refused():
    maps = {"m": np.stack([MAP, MAP])}
    for table in (looks((1, 1), image="c"), looks((1, 1))[:0]):
        with pytest.raises(ValueError, match="no fixation is of these images"):
            gaze.gaze_scores(maps, ["a", "b"], table, 1.0)
    with pytest.raises(ValueError, match="expected one shape"):
        gaze.gaze_scores(maps, ["a"], looks((1, 1)), 1.0)


def test_readers_who_look_at_the_evidence_are_found_out():
    """Scores order the evidence, the centre and noise as the readers' rule says, and chance is where it should be."""
    rng, masks = np.random.default_rng(0), np.zeros((12, 32, 32), bool)
    for mask in masks:
        row, column = rng.integers(2, 24, 2)
        mask[row : row + 6, column : column + 6] = True
    ids = [f"i{k}" for k in range(12)]
    table = gaze.simulate_fixations(masks, ids, seed=1)
    distance = ((np.indices((32, 32)) - 15.5) ** 2).sum(axis=0)
    centre = np.broadcast_to(np.exp(-distance / 128), masks.shape)
    maps = {"evidence": masks.astype(float), "centre": centre, "noise": rng.random(masks.shape)}
    scores = gaze.gaze_scores(maps, ids, table, 2.0).groupby(["metric", "method"])["value"].mean()
    ceiling = gaze.split_half(table, (32, 32), 2.0, 3).groupby("metric")["value"].mean()
    assert scores["shuffled_auc", "evidence"] > 0.7
    assert scores["shuffled_auc", "centre"] == pytest.approx(0.5, abs=0.08)
    assert scores["auc_judd", "centre"] > 0.55
    assert scores["nss", "noise"] == pytest.approx(0, abs=0.15)
    assert scores["cc", "evidence"] > scores["cc", "centre"] > scores["cc", "noise"]
    assert ceiling["cc"] > scores["cc", "evidence"]
    none = gaze.simulate_fixations(masks, ids, to_evidence=0.0, seed=1)
    blind = gaze.gaze_scores(maps, ids, none, 2.0).groupby(["metric", "method"])["value"].mean()
    assert blind["shuffled_auc", "evidence"] == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="needs two"):
        gaze.split_half(table[table["reader"] == "R1"], (32, 32), 2.0)
