"""CheXpert, CheXlocalize, NIH ChestX-ray14, VinDr-CXR and VinDr-Mammo in the layouts they are published in."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trees import mammogram, write_dicom

import xaiutils as xai
from xaiutils.datasets.loaders import chexlocalize, chexpert, nih_cxr14
from xaiutils.evaluation.studies.chexlocalize import human_scores
from xaiutils.evaluation.studies.chexlocalize_tables import finding_geometry

HEIGHT, WIDTH = 40, 50


def put(path, seed=0, size=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, size, np.uint8)
    Image.fromarray(pixels).save(path)


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def load(name, root, split="all", **options):
    return xai.load_dataset(name, split, image_size=20, data_dir=root, **options)


def label_of(ds, name, column):
    return ds.labels[ds.ids.index(name), ds.class_names.index(column)]


def evidence_of(ds, name, column):
    return ds.label_evidence[ds.ids.index(name), ds.class_names.index(column)]


def mask_of(ds, name, column):
    return ds.label_masks[ds.ids.index(name), ds.class_names.index(column)]


# CheXpert -----------------------------------------------------------------------------------------------------------


def chexpert_row(path, **labels):
    lateral = "lateral" in path
    facts = {"Path": path, "Sex": "Male", "Age": 60, "Frontal/Lateral": "Lateral" if lateral else "Frontal"}
    facts["AP/PA"] = "" if lateral else "AP"
    return facts | dict.fromkeys(chexpert.LABELS, "") | {k.replace("_", " "): v for k, v in labels.items()}


def make_chexpert(root, pictures=True):
    """Eight patients, the first with a lateral view; the last row's picture is not there."""
    rows = []
    for patient in range(1, 9):
        finding = {"Edema": [1.0, 0.0, -1.0, ""][patient % 4], "Pneumonia": 1.0}
        for view in ("view1_frontal", "view2_lateral") if patient == 1 else ("view1_frontal",):
            path = f"train/patient{patient:05d}/study1/{view}.jpg"
            rows.append(chexpert_row(f"CheXpert-v1.0-small/{path}", **finding))
            put(root / path, patient)
    rows.append(chexpert_row("CheXpert-v1.0-small/train/patient00009/study1/view1_frontal.jpg"))
    table(root / "train.csv", rows)
    path = "valid/patient64541/study1/view1_frontal.jpg"
    put(root / path, 99)
    table(root / "valid.csv", [chexpert_row(f"CheXpert-v1.0-small/{path}", Edema=1.0, Cardiomegaly=0.0)])


def test_chexpert(tmp_path):
    make_chexpert(tmp_path)
    ds = load("chexpert", tmp_path)
    assert ds.class_names == chexpert.LABELS
    assert len(ds) == 9
    assert ds.multi_label
    assert ds.masks is None
    names = [f"patient{i:05d}_study1_view1_frontal" for i in range(1, 5)]
    assert [label_of(ds, name, "Edema") for name in names] == [0, -1, 0, 1]
    assert ds.patients[0] == "patient00001"
    assert ds.metadata["view"].tolist() == ["AP"] * 9
    assert ("patient00009_study1_view1_frontal", "no picture of it") in ds.skipped
    assert any("1 image is of other views" in note for note in ds.notes)
    assert ds.files.set_index("kind")["files"]["picture left out"] == 1
    assert label_of(load("chexpert", tmp_path, uncertain="ones"), names[1], "Edema") == 1
    strict = load("chexpert", tmp_path, blank="ignore", labels=["Pneumonia", "Edema"])
    assert strict.class_names == ("Pneumonia", "Edema")
    assert strict.labels[:4].tolist() == [[1, 0], [1, -1], [1, -1], [1, 1]]
    assert load("chexpert", tmp_path, views="lateral").ids == ["patient00001_study1_view2_lateral"]


def test_chexpert_splits_by_patient(tmp_path):
    make_chexpert(tmp_path)
    test = load("chexpert", tmp_path, "test")
    assert test.ids == ["patient64541_study1_view1_frontal"]
    assert any("official validation set is the test set" in note for note in test.notes)
    train, val = load("chexpert", tmp_path, "train"), load("chexpert", tmp_path, "val")
    assert len(train) + len(val) == 8
    assert not set(train.patients) & set(val.patients)
    path = "test/patient70000/study1/view1_frontal.jpg"
    put(tmp_path / path)
    table(tmp_path / "test_labels.csv", [chexpert_row(path)])
    assert load("chexpert", tmp_path, "test").patients == ["patient70000"]
    assert load("chexpert", tmp_path, "val").patients == ["patient64541"]


def test_chexpert_refuses(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"lacks train\.csv and valid\.csv\. CheXpert is given by Stanford AIMI"
    ):
        load("chexpert", tmp_path)
    make_chexpert(tmp_path)
    for options, words in (
        ({"uncertain": "one"}, "did you mean ones"),
        ({"blank": "ones"}, "blank='ones'"),
        ({"views": "front"}, "frontal"),
        ({"labels": ["Oedema"]}, "Edema"),
    ):
        with pytest.raises(ValueError, match=words):
            load("chexpert", tmp_path, **options)
    rows = pd.read_csv(tmp_path / "valid.csv", dtype=str)
    table(tmp_path / "valid.csv", rows.assign(Edema="yes"))
    with pytest.raises(ValueError, match="Edema of .*patient64541.* is 'yes', not 1, 0, -1 or blank"):
        load("chexpert", tmp_path)
    table(tmp_path / "valid.csv", rows.drop(columns="Edema"))
    with pytest.raises(ValueError, match="no column 'Edema'"):
        load("chexpert", tmp_path)


# CheXlocalize -------------------------------------------------------------------------------------------------------


def packed(mask):
    """COCO's compressed run lengths of a mask, by the definition that `unpack_run_lengths` reads."""
    values = mask.T.ravel()
    edges = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *edges, len(values)]).tolist()
    counts = [0, *counts] if values[0] else counts
    text = ""
    for i, count in enumerate(counts):
        x, more = int(count) - (int(counts[i - 2]) if i > 2 else 0), True
        while more:
            bits, x = x & 31, x >> 5
            more = not ((x == 0 and not bits & 16) or (x == -1 and bits & 16))
            text += chr((bits | (32 if more else 0)) + 48)
    return {"size": [HEIGHT, WIDTH], "counts": text}


def drawn(rows, columns):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


ID = "patient64741_study1_view1_frontal"
SQUARE = [[10, 10], [19, 10], [19, 29], [10, 29]]  # x 10 to 19, y 10 to 29


def make_chexlocalize(root):
    """Three test images: one with two findings and one that nobody drew; one with a drawing that its labels deny; one
    that no annotation file has."""
    rows, ids = [], [ID, ID.replace("64741", "64742"), ID.replace("64741", "64743")]
    for name, labels in zip(
        ids,
        ({"Edema": 1.0, "Lung_Opacity": 1.0, "Atelectasis": 1.0}, {"Edema": 0.0}, {"Support_Devices": 1.0}),
        strict=True,
    ):
        path = "test/" + name.replace("_", "/", 2) + ".jpg"
        put(root / "CheXpert" / path, len(rows))
        rows.append(chexpert_row(path, **labels))
    table(root / "CheXpert" / "test_labels.csv", rows)
    nothing = packed(np.zeros((HEIGHT, WIDTH), bool))
    marked = {
        "Edema": packed(drawn(slice(10, 30), slice(10, 20))),
        "Airspace Opacity": packed(drawn(slice(30, 39), slice(4, 8))),
    }
    segments = {
        ids[0]: dict.fromkeys(["Atelectasis", "Pneumothorax"], nothing) | marked,
        ids[1]: {"Edema": marked["Edema"]},
    }
    outlines = {ids[0]: {"img_size": [HEIGHT, WIDTH], "Edema": [SQUARE, SQUARE], "Airspace Opacity": [SQUARE]}}
    human = {ids[0]: {"Edema": packed(drawn(slice(12, 30), slice(10, 20)))}}
    points = {ids[0]: {"Edema": [[25, 20], [12.5, 10]]}}
    folder = root / "CheXlocalize"
    folder.mkdir()
    for name, content in (
        ("gt_segmentations_test", segments),
        ("gt_annotations_test", outlines),
        ("hb_segmentations_test", human),
        ("hb_salient_pt_test", points),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return ids


def test_chexlocalize(tmp_path):
    first, second, third = make_chexlocalize(tmp_path)
    ds = load("chexlocalize", tmp_path, "test", keep_aspect=False)
    assert ds.class_names == chexlocalize.LABELS
    assert evidence_of(ds, first, "Edema") == evidence_of(ds, first, "Lung Opacity") == "known"
    assert evidence_of(ds, first, "Atelectasis") == "unknown"  # present, and not drawn
    assert evidence_of(ds, first, "Pneumothorax") == "empty"
    assert evidence_of(ds, second, "Edema") == "unknown"  # absent, and drawn
    assert evidence_of(ds, third, "Support Devices") == "unknown"
    assert evidence_of(ds, third, "Edema") == "empty"
    expected = np.zeros((20, 20), bool)
    expected[5:15, 4:8] = True
    np.testing.assert_array_equal(mask_of(ds, first, "Edema"), expected)
    assert ds.metadata["outlines of Edema"].tolist()[:1] == [2]
    assert "2 labels present, and nothing is drawn: its evidence is not known." in ds.notes
    assert "1 label absent or uncertain, and drawn: its evidence is not known." in ds.notes
    outlines = load("chexlocalize", tmp_path, "test", keep_aspect=False, annotations="outlines")
    np.testing.assert_array_equal(mask_of(outlines, first, "Edema"), expected)
    assert set(ds.files["kind"]) <= {"picture", "table or annotation", "table or text not used"}


def test_chexlocalize_human_benchmark(tmp_path):
    first, second, _ = make_chexlocalize(tmp_path)
    human = load("chexlocalize", tmp_path, "test", reader="human", keep_aspect=False)
    assert mask_of(human, first, "Edema").sum() == 9 * 4
    assert evidence_of(human, first, "Lung Opacity") == "empty"  # this reader drew nothing
    assert evidence_of(human, second, "Edema") == "empty"
    assert human.metadata["points of Edema"][0] == "0.500000 0.500000; 0.250000 0.250000"
    padded = load("chexlocalize", tmp_path, "test", reader="human")
    assert padded.metadata["points of Edema"][0] == "0.500000 0.500000; 0.250000 0.300000"


def test_chexlocalize_from_its_files_to_the_human_row(tmp_path):
    make_chexlocalize(tmp_path)
    sets = [load("chexlocalize", tmp_path, "test", reader=r, keep_aspect=False) for r in ("ground_truth", "human")]
    rows = human_scores(*sets)
    assert set(rows["label"]) == {"Edema", "Lung Opacity"}  # what is present and marked
    scores = rows.set_index(["label", "metric"])["value"]
    assert scores["Edema", "iou"] == 9 / 10
    assert scores["Edema", "hit_rate"] == 1  # the second of two points
    assert np.isnan(scores["Lung Opacity", "iou"])  # not a true positive of this reader
    assert scores["Lung Opacity", "hit_rate"] == 0  # no point is a miss
    assert rows["patient_id"].tolist() == ["patient64741"] * 4
    instances = finding_geometry(sets[0]).set_index("label")["instances"]
    assert instances["Edema"] == 2  # outlines that overlap count apart


def test_chexlocalize_refuses_and_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no split with both labels .*Stanford AIMI"):
        load("chexlocalize", tmp_path)
    first, *_ = make_chexlocalize(tmp_path)
    with pytest.raises(ValueError, match="reader='radiologist'"):
        load("chexlocalize", tmp_path, reader="radiologist")
    path = tmp_path / "CheXlocalize" / "gt_segmentations_test.json"
    content = json.loads(path.read_text())
    content[first]["Edema"]["counts"] = content[first]["Edema"]["counts"][:-1]
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="evidence that cannot be read"):
        ds = load("chexlocalize", tmp_path)
    assert evidence_of(ds, first, "Edema") == "unknown"
    assert evidence_of(ds, first, "Lung Opacity") == "known"
    content[first]["Edema"] = 5
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="its annotation: "):
        assert evidence_of(load("chexlocalize", tmp_path), first, "Edema") == "unknown"
    points = tmp_path / "CheXlocalize" / "hb_salient_pt_test.json"
    points.write_text(json.dumps({first: {"Edema": [["left", 1]]}}))
    with pytest.raises(ValueError, match="hb_segmentations_test.*cannot be read"):
        load("chexlocalize", tmp_path, reader="human")
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="no annotation file of CheXlocalize"):
        load("chexlocalize", tmp_path)


# NIH ChestX-ray14 ---------------------------------------------------------------------------------------------------


def make_nih(root, folders=True):
    """Eight images of four patients; boxes on two, one of them of a label that is absent."""
    names = [f"{patient:08d}_{i:03d}.png" for patient in range(1, 5) for i in range(2)]
    findings = [
        "Effusion|Infiltration",
        "No Finding",
        "Effusion",
        "Mass",
        "No Finding",
        "Hernia",
        "Nodule|Mass",
        "Edema",
    ]
    for i, name in enumerate(names):
        put(root / (f"images_{i % 2 + 1:03d}/images" if folders else "images") / name, i, (64, 64))
    rows = [
        {"Image Index": n, "Finding Labels": f, "Follow-up #": 0, "Patient ID": int(n[:8]), "Patient Age": 50,
         "Patient Gender": "M", "View Position": "PA" if i % 3 else "AP", "OriginalImage[Width": 2500, "Height]": 2048}
        for i, (n, f) in enumerate(zip(names, findings, strict=True))
    ]  # fmt: skip
    table(root / "Data_Entry_2017.csv", rows)
    text = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    text += f"{names[0]},Infiltrate,512,256,256,128,,,\n{names[0]},Infiltrate,0,0,64,64,,,\n"
    text += f"{names[3]},Nodule,10,10,100,100,,,\n"
    (root / "BBox_List_2017.csv").write_text(text)
    (root / "train_val_list.txt").write_text("\n".join(names[:6]))
    (root / "test_list.txt").write_text("\n".join(names[6:]))
    return names


@pytest.mark.parametrize("folders", [True, False])
def test_nih(tmp_path, folders):
    names = make_nih(tmp_path, folders)
    ds = load("nih_cxr14", tmp_path)
    assert ds.class_names == nih_cxr14.LABELS
    assert label_of(ds, names[0], "Effusion") == label_of(ds, names[0], "Infiltration") == 1
    assert not ds.labels[ds.ids.index(names[1])].any()
    assert evidence_of(ds, names[0], "Infiltration") == "known"
    assert evidence_of(ds, names[0], "Effusion") == "unknown"  # present, without a box
    assert evidence_of(ds, names[0], "Mass") == "empty"
    assert evidence_of(ds, names[3], "Nodule") == "unknown"  # boxed, and not among its labels
    expected = np.zeros((20, 20), bool)
    expected[5:7, 10:15] = expected[0:1, 0:1] = True
    found = mask_of(ds, names[0], "Infiltration")
    assert (found != expected).sum() <= 6  # a box of 64 of 1024 pixels is one and a quarter here
    assert found[5:7, 10:15].all()
    assert any(note.startswith("1 box of labels that the table of labels says are absent") for note in ds.notes)
    assert load("nih_cxr14", tmp_path, "test").ids == names[6:]
    train, val = load("nih_cxr14", tmp_path, "train"), load("nih_cxr14", tmp_path, "val")
    assert set(train.ids) | set(val.ids) == set(names[:6])
    assert not set(train.patients) & set(val.patients)
    pa = load("nih_cxr14", tmp_path, views="PA", labels=["Mass"])
    assert len(pa) == 5
    assert pa.class_names == ("Mass",)


def test_nih_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks Data_Entry_2017\.csv\. NIH ChestX-ray14 is free"):
        load("nih_cxr14", tmp_path)
    names = make_nih(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="has one of"):
        load("nih_cxr14", tmp_path)
    (tmp_path / "test_list.txt").write_text(names[7])
    rows = pd.read_csv(tmp_path / "Data_Entry_2017.csv")
    table(tmp_path / "Data_Entry_2017.csv", rows.replace("Hernia", "Hernias"))
    with pytest.raises(ValueError, match="has the label 'Hernias'"):
        load("nih_cxr14", tmp_path)


# VinDr-CXR ----------------------------------------------------------------------------------------------------------


def cxr_box(image, reader, name, *corners):
    values = dict(zip(("x_min", "y_min", "x_max", "y_max"), corners or [""] * 4, strict=True))
    return {"image_id": image, "class_name": name, "rad_id": reader} | values


def make_vindr_cxr(root, kaggle=False):
    """Three images read by three: two agree on a nodule, whose boxes overlap by half; one sees an effusion."""
    rows = [
        cxr_box("a", "R1", "Nodule/Mass", 10, 10, 30, 30),
        cxr_box("a", "R2", "Nodule/Mass", 20, 10, 40, 30),
        cxr_box("a", "R2", "Pleural effusion", 0, 0, 10, 10),
        cxr_box("a", "R3", "No finding"),
        *(cxr_box("b", f"R{i}", "No finding") for i in (1, 2, 3)),
        cxr_box("c", "R1", "Nodule/Mass", 0, 0, 9, 9),
        cxr_box("c", "R2", "Nodule/Mass", 30, 30, 39, 39),
        cxr_box("c", "R3", "No finding"),
    ]
    table(root / ("train.csv" if kaggle else "annotations/annotations_train.csv"), rows)
    for i, name in enumerate("abc"):
        pixels = np.random.default_rng(i).integers(0, 4095, (HEIGHT, WIDTH))
        write_dicom(root / "train" / f"{name}.dicom", pixels, 12)
    if kaggle:
        return
    pixels = np.random.default_rng(9).integers(0, 4095, (HEIGHT, WIDTH))
    write_dicom(root / "test" / "t.dicom", pixels, 12)
    one = cxr_box("t", "", "Pleural effusion", 5, 5, 25, 25)
    del one["rad_id"]
    table(root / "annotations" / "annotations_test.csv", [one])
    said = {"Nodule/Mass": 0.0, "Other diseases": "", "No finding": 0}
    pairs = [(x, i) for x in "abc" for i in (1, 2, 3)]
    read = [{"image_id": x, "rad_id": f"R{i}", **said, "COPD": float(x == "b" and i < 3)} for x, i in pairs]
    table(root / "annotations" / "image_labels_train.csv", read)
    table(root / "annotations" / "image_labels_test.csv", [{"image_id": "t", "COPD": 0, "Other disease": 1}])


@pytest.mark.filterwarnings("ignore:1 image has evidence that cannot be read")
def test_vindr_cxr(tmp_path):
    make_vindr_cxr(tmp_path)
    ds = load("vindr_cxr", tmp_path, keep_aspect=False)
    assert ds.class_names == ("Nodule/Mass", "Pleural effusion")
    assert label_of(ds, "a", "Nodule/Mass") == 1
    assert label_of(ds, "a", "Pleural effusion") == 0
    assert evidence_of(ds, "a", "Nodule/Mass") == "known"
    expected = np.zeros((20, 20), bool)
    expected[5:15, 8:12] = True  # where both boxes lie: x 20 to 30
    np.testing.assert_array_equal(mask_of(ds, "a", "Nodule/Mass"), expected)
    assert evidence_of(ds, "a", "Pleural effusion") == "unknown"  # one of three marked it
    assert evidence_of(ds, "b", "Nodule/Mass") == "empty"
    assert label_of(ds, "c", "Nodule/Mass") == 1
    assert evidence_of(ds, "c", "Nodule/Mass") == "unknown"  # two saw one, in different places
    assert any("1 image has evidence that cannot be read" in n and "do not meet" in n for n in ds.notes)
    assert "1 label marked by fewer: absent, with unknown evidence." in ds.notes
    assert ds.metadata["readers"].tolist() == [3, 3, 3, 1]
    test = load("vindr_cxr", tmp_path, "test", keep_aspect=False)
    assert test.ids == ["t"]
    assert mask_of(test, "t", "Pleural effusion").sum() == 10 * 8
    one = load("vindr_cxr", tmp_path, agreement=1, keep_aspect=False)
    assert label_of(one, "a", "Pleural effusion") == 1
    assert mask_of(one, "a", "Nodule/Mass").sum() == 10 * 12


@pytest.mark.filterwarnings("ignore:1 image has evidence that cannot be read")
def test_vindr_cxr_diagnoses(tmp_path):
    make_vindr_cxr(tmp_path)
    ds = load("vindr_cxr", tmp_path, diagnoses=True)
    assert ds.class_names == ("Nodule/Mass", "Pleural effusion", "COPD", "Other diseases")
    assert label_of(ds, "b", "COPD") == label_of(ds, "t", "Other diseases") == 1
    assert evidence_of(ds, "b", "COPD") == "unknown"
    assert evidence_of(ds, "a", "COPD") == "empty"
    (tmp_path / "annotations" / "image_labels_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks image_labels_test\.csv.*PhysioNet"):
        load("vindr_cxr", tmp_path, diagnoses=True)


@pytest.mark.filterwarnings("ignore:1 image has evidence that cannot be read")
def test_vindr_cxr_of_kaggle_as_pictures_of_another_size(tmp_path):
    make_vindr_cxr(tmp_path, kaggle=True)
    whole = load("vindr_cxr", tmp_path, keep_aspect=False)
    for name in "abc":
        (tmp_path / "train" / f"{name}.dicom").unlink()
        put(tmp_path / "train" / f"{name}.png", size=(HEIGHT // 2, WIDTH // 2))
    with pytest.warns(UserWarning, match="in pixels of the DICOM file"):
        ds = load("vindr_cxr", tmp_path, keep_aspect=False)
    assert evidence_of(ds, "a", "Nodule/Mass") == "unknown"
    table(tmp_path / "train_meta.csv", [{"image_id": x, "dim0": HEIGHT, "dim1": WIDTH} for x in "abc"])
    ds = load("vindr_cxr", tmp_path, keep_aspect=False)
    np.testing.assert_array_equal(mask_of(ds, "a", "Nodule/Mass"), mask_of(whole, "a", "Nodule/Mass"))
    with pytest.raises(FileNotFoundError, match=r"lacks annotations_train\.csv\. VinDr-CXR is given by PhysioNet"):
        load("vindr_cxr", tmp_path / "train")


# VinDr-Mammo --------------------------------------------------------------------------------------------------------


def make_vindr_mammo(root):
    """Four exams of one view: a mass and a skin retraction in one box, BI-RADS 3 without suspicion, a healthy breast,
    and a suspicious breast without a box."""
    breasts, findings = [], []
    cases = ((4, ["Mass", "Skin Retraction"]), (3, ["Asymmetry"]), (1, ["No Finding"]), (5, ["No Finding"]))
    for i, (grade, categories) in enumerate(cases):
        image, _ = mammogram(i)
        write_dicom(root / "images" / f"study{i}" / f"image{i}.dicom", np.rint(4095 * image), 12)
        row = {
            "study_id": f"study{i}", "series_id": "s", "image_id": f"image{i}", "laterality": "L",
            "view_position": "CC",
            "height": image.shape[0], "width": image.shape[1], "breast_birads": f"BI-RADS {grade}",
            "breast_density": "DENSITY C", "split": "test" if i > 1 else "training",
        }  # fmt: skip
        breasts.append(row)
        boxed = categories != ["No Finding"]
        corners = (10.5, 100, 60.5, 160) if boxed else [""] * 4
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        findings.append({**row, "finding_categories": str(categories), "finding_birads": "", **box})
    table(root / "breast-level_annotations.csv", breasts)
    table(root / "finding_annotations.csv", findings)


def test_vindr_mammo(tmp_path):
    make_vindr_mammo(tmp_path)
    ds = load("vindr_mammo", tmp_path)
    assert label_of(ds, "image0", "Mass") == label_of(ds, "image0", "Skin Retraction") == 1
    assert evidence_of(ds, "image0", "Mass") == "known"
    assert mask_of(ds, "image0", "Mass").any()
    assert evidence_of(ds, "image0", "Asymmetry") == "empty"
    assert (ds.label_evidence[ds.ids.index("image2")] == "empty").all()
    assert ds.patients[0] == "study0"
    assert load("vindr_mammo", tmp_path, "test").ids == ["image2", "image3"]
    whole = load("vindr_mammo", tmp_path, region="whole", align=False, keep_aspect=False, labels=["Mass"])
    rows, columns = np.nonzero(whole.label_masks[0, 0])
    size = pd.read_csv(tmp_path / "finding_annotations.csv").iloc[0]
    assert rows.min() == pytest.approx(100 / size["height"] * 20, abs=1)
    assert columns.max() == pytest.approx(60.5 / size["width"] * 20, abs=1)


def test_vindr_mammo_suspicious(tmp_path):
    make_vindr_mammo(tmp_path)
    ds = load("vindr_mammo", tmp_path, task="suspicious")
    assert ds.class_names == ("not suspicious", "suspicious")
    assert ds.labels.tolist() == [1, 0, 0, 1]
    assert ds.evidence.tolist() == ["known", "known", "empty", "unknown"]
    assert load("vindr_mammo", tmp_path, task="suspicious", suspicious_from=3).labels.tolist() == [1, 1, 0, 1]
    assert any("Suspicious is BI-RADS 4 and higher" in note for note in ds.notes)


def test_vindr_mammo_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks breast-level_annotations\.csv.*PhysioNet"):
        load("vindr_mammo", tmp_path)
    make_vindr_mammo(tmp_path)
    path = tmp_path / "finding_annotations.csv"
    rows = pd.read_csv(path)
    for value, words in (("Mass", "no list"), ("['Masses']", "did you mean Mass")):
        table(path, rows.assign(finding_categories=value))
        with pytest.raises(ValueError, match=words):
            load("vindr_mammo", tmp_path)
    table(path, rows)
    breasts = pd.read_csv(tmp_path / "breast-level_annotations.csv")
    table(tmp_path / "breast-level_annotations.csv", breasts.assign(breast_birads="4A"))
    with pytest.raises(ValueError, match="'4A', no BI-RADS"):
        load("vindr_mammo", tmp_path)
