"""A table of images: every column and its absence, the published split of VisA, and the line of each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vaex.config import conf_dir
from vaex.data import Folder
from vaex.data.manifest import read_manifest
from vaex.data.records import Record
from vaex.errors import VaexError

Draw = Callable[..., Path]

MASK = np.zeros((16, 16), dtype=np.uint8)
MASK[5:8] = 1  # VisA numbers its kinds of defect


@pytest.fixture
def table(draw: Draw, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes the table; images 0 to 9 and masks m8, m9 lie beside it."""
    for i in range(10):
        draw(f"{i}.png")
    for i in (8, 9):
        draw(f"m{i}.png", MASK)

    def write(text: str) -> Path:
        path = tmp_path / "list.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_column_is_read(table: Callable[[str], Path], tmp_path: Path) -> None:
    file = table(
        "\ufeffpath,label,mask,split,group,remark\n0.png,0,,train,,first\n1.png,normal,,VAL,good,\n2.png,0,,,,\n"
        "8.png,1,m8.png,test,cut,\n9.png,Anomaly,m9.png,val,,\n7.png,bad,,,,last\n"
    )
    assert read_manifest(file, tmp_path) == [
        Record(tmp_path / "0.png", "train", 0, "good"),
        Record(tmp_path / "1.png", "val", 0, "good"),
        Record(tmp_path / "2.png", "", 0, "good"),
        Record(tmp_path / "8.png", "test", 1, "cut", tmp_path / "m8.png"),
        Record(tmp_path / "9.png", "val", 1, "anomalous", tmp_path / "m9.png"),
        Record(tmp_path / "7.png", "test", 1, "anomalous"),
    ]


def test_a_table_splits_what_it_leaves_open(table: Callable[[str], Path]) -> None:
    file = table("path,label\n" + "".join(f"{i}.png,{int(i > 7)}\n" for i in range(10)))
    data = Folder(manifest=str(file), size=16, test_fraction=0.25, val_fraction=0.2)
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (5, 2, 4)
    assert "mask" not in data.test_set.__getitems__([0])


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_the_mask_of_a_normal_image_may_mark_nothing(cache: str, table: Callable[[str], Path], draw: Draw) -> None:
    """Also where the pixels were cached while the label was another."""
    draw("empty.png", np.zeros((16, 16), dtype=np.uint8))
    draw("faint.png", np.pad(np.ones((1, 1), dtype=np.uint8), 8))  # 17x17: it is resized
    rows = "path,label,mask,split\n0.png,0,empty.png,train\n1.png,0,,train\n8.png,1,m8.png,test\n9.png,{},{},test\n"
    file = table(rows.format(1, "m9.png"))
    data = Folder(manifest=str(file), size=16, cache=cache)
    data.setup()
    assert not data.train_set.__getitems__([0])["mask"].any()
    (batch,) = data.test_dataloader()
    np.testing.assert_array_equal(batch["mask"][:, 0].numpy(), [MASK, MASK])
    for mask in ("m9.png", "faint.png"):
        table(rows.format(0, mask))
        with pytest.raises(
            VaexError, match=rf"list\.csv, line 5: .*9\.png has the label 0 .*its mask .*{mask} marks a"
        ):
            Folder(manifest=str(file), size=16, cache=cache).setup()


def test_own_defects_in_validation_take_the_place_of_pasted_ones(table: Callable[[str], Path]) -> None:
    file = table("path,label,split,mask\n0.png,0,train,\n1.png,0,train,\n2.png,0,val,\n8.png,1,val,m8.png\n9.png,1,,\n")
    data = Folder(manifest=str(file), size=16)
    data.setup()
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [0, 1]
    np.testing.assert_array_equal(batch["mask"][1, 0], MASK)
    assert [data.group_names[g] for g in batch["group"]] == ["good", "anomalous"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n0.png,0\n77.png,0\n", r"list\.csv, line 3: there is no image .*77\.png; paths are relative to"),
        ("path,label\n0.png,odd\n", r"line 2: Unknown label 'odd'"),
        ("path,split\n0.png,trian\n", r"line 2: Unknown split 'trian': did you mean 'train'"),
        ("path,label,split\n8.png,1,train\n", r"line 2: .*8\.png is anomalous, but training takes normal images only"),
        ("path,label,mask\n8.png,1,m7.png\n", r"line 2: there is no mask .*m7\.png"),
        ("path,label,mask\n8.png,1,m8.png\n0.png,0,m7.png\n", r"line 3: there is no mask .*m7\.png"),
        ("path,label\n0.png,0\n1.png,0\n0.png,0\n", r"line 4: .*0\.png is in line 2 already"),
        ("path;label\n0.png;0\n", r"no commas between its cells \('path;label'\); save it as CSV with commas"),
        ("file,label\n0.png,0\n", r"has no column 'path' \(it has file, label\)"),
        ("path,mask\n0.png,\n8.png,m8.png\n", r"line 3: .*8\.png has a mask but no label"),
        ("path,label\n0.png,0\n8.png,\n", r"line 3: .*8\.png has no label; give it 0 \(normal\) or 1"),
        ("path,group\n0.png,good\n8.png,cut\n", r"line 3: .*8\.png has a group but no label"),
        ("path,Label\n8.png,1\n", r"has a column 'Label' and none that is called 'label'; rename it to 'label'"),
        ("path,lable\n8.png,1\n", r"has a column 'lable' and none that is called 'label'"),
        ("path,label,maks\n8.png,1,m8.png\n", r"has a column 'maks' and none that is called 'mask'"),
        ("path,label,Spilt\n8.png,1,val\n", r"has a column 'Spilt' and none that is called 'split'"),
        ("path,label, label \n8.png,0,1\n", r"has 2 columns 'label'; keep one of them"),
        ("path,label\n", r"has no column 'path' \(it has no rows\)"),
        ('path,label\n"0.png,0\n', r"there is no image"),
    ],
)
def test_mistakes_are_told_by_line(text: str, message: str, table: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=message):
        read_manifest(table(text), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "path, label, mask , split\n0.png, 0, , train\n8.png, 1, m8.png, val \n9.png , 1.0,m9.png,\n1.png,0.0 ,,\n",
        "path,label ,mask,split,labels,task\n0.png,0,,train,x,x\n8.png,1,m8.png,val,x,x\n9.png,1,m9.png\n1.png,0,\n",
    ],
)
def test_spaces_floats_and_other_columns_do_no_harm(text: str, table: Callable[[str], Path], tmp_path: Path) -> None:
    assert read_manifest(table(text), tmp_path) == [
        Record(tmp_path / "0.png", "train", 0, "good"),
        Record(tmp_path / "8.png", "val", 1, "anomalous", tmp_path / "m8.png"),
        Record(tmp_path / "9.png", "test", 1, "anomalous", tmp_path / "m9.png"),
        Record(tmp_path / "1.png", "", 0, "good"),
    ]
    (kept,) = read_manifest(table("path,label, line \n0.png,0, 3\n1.png,0,4\n"), tmp_path, where={"line": 3})
    assert kept.path.name == "0.png"


def test_a_table_without_labels_says_that_all_count_as_normal(
    table: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_manifest(table("path,split,group\n0.png,train,good\n"), tmp_path)
    read_manifest(table("path,line\n0.png,3\n"), tmp_path, where={"line": 3})
    assert not caplog.records
    rows = read_manifest(table("path,class\n0.png,ok\n8.png,bad\n"), tmp_path)
    assert [row.label for row in rows] == [0, 0]
    assert "no column 'label', so all 2 images count as normal; if 'class' tells which are not, set" in caplog.text
    assert [row.label for row in read_manifest(tmp_path / "list.csv", tmp_path, {"label": "class"})] == [0, 1]


def test_an_image_is_listed_once_by_whatever_path(table: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    for other in ("sub/../0.png", f"../{tmp_path.name}/0.png", str(tmp_path / "0.png"), "link.png"):
        with pytest.raises(VaexError, match=r"line 3: .*\.png is in line 2 already; list it once"):
            read_manifest(table(f"path,split\n0.png,train\n{other},test\n"), tmp_path)


def test_normal_images_are_held_out_where_validation_has_defects_alone(table: Callable[[str], Path]) -> None:
    rows = [*(f"{i}.png,0,train" for i in range(6)), "8.png,1,val", "9.png,1,test"]
    data = Folder(manifest=str(table("\n".join(["path,label,split", *rows]))), size=16, val_fraction=0.34)
    data.setup()
    (batch,) = data.val_dataloader()
    assert sorted(batch["label"].tolist()) == [0, 0, 1]
    assert len(data.train_set) == 4
    assert not {r.path for r in data.train_set.records} & {r.path for r in data.val_set.records}


@pytest.mark.parametrize("rows", ["0.png,0,val\n1.png,0,val\n8.png,1,test", "0.png,0,val\n8.png,1,val"])
def test_no_normal_image_to_train_on_is_told(rows: str, table: Callable[[str], Path]) -> None:
    with pytest.raises(VaexError, match="has no normal image to train on; give at least one"):
        Folder(manifest=str(table(f"path,label,split\n{rows}\n")), size=16).prepare_data()


def test_a_missing_table_wrong_columns_and_filters(table: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"Cannot read the manifest .*none\.csv"):
        read_manifest(tmp_path / "none.csv", tmp_path)
    (tmp_path / "latin.csv").write_bytes("path\nä.png\n".encode("latin-1"))
    with pytest.raises(VaexError, match="no CSV file in UTF-8"):
        read_manifest(tmp_path / "latin.csv", tmp_path)
    file = table("image,object\n0.png,pcb1\n1.png,candle\n")
    with pytest.raises(VaexError, match=r"no column 'path' \(it has image, object\); set data\.columns"):
        read_manifest(file, tmp_path)
    with pytest.raises(VaexError, match=r"Unknown key of data\.columns 'paht': did you mean 'path'"):
        read_manifest(file, tmp_path, {"paht": "image"})
    with pytest.raises(VaexError, match=r"Unknown value of 'object' in .* 'pcb2': did you mean 'pcb1'"):
        read_manifest(file, tmp_path, {"path": "image"}, {"object": "pcb2"})
    assert [r.path.name for r in read_manifest(file, tmp_path, {"path": "image"}, {"object": "candle"})] == ["1.png"]


def test_the_layout_of_visa_is_read_by_its_config(draw: Draw, tmp_path: Path) -> None:
    lines = ["object,split,label,image,mask"]
    for kind in ("candle", "pcb1"):
        for i in range(6):
            image = f"{kind}/Data/Images/Normal/{i:04d}.JPG"
            draw(f"visa/{image}", format="JPEG")
            lines.append(f"{kind},{'train' if i < 4 else 'test'},normal,{image},")
        image, mask = f"{kind}/Data/Images/Anomaly/000.JPG", f"{kind}/Data/Masks/Anomaly/000.png"
        draw(f"visa/{image}", format="JPEG")
        draw(f"visa/{mask}", MASK)
        lines.append(f"{kind},test,anomaly,{image},{mask}")
    (tmp_path / "visa/split_csv").mkdir()
    (tmp_path / "visa/split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = yaml.safe_load((conf_dir() / "data/visa.yaml").read_text())
    assert options.pop("_target_") == "vaex.data.Folder"
    options = {key: value for key, value in options.items() if "$" not in str(value)}
    tree = r"(?s)no table .*empty/visa/split_csv/1cls\.csv; .*expected is.*empty/visa/\.\.\. .* column 'image'"
    with pytest.raises(VaexError, match=tree):
        Folder(**{**options, "root": str(tmp_path / "empty"), "size": 16}).prepare_data()
    data = Folder(**{**options, "root": str(tmp_path), "size": 16, "where": {"object": "pcb1"}})
    data.prepare_data()
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (3, 2, 3)
    (batch,) = data.test_dataloader()
    assert batch["label"].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(batch["mask"][2, 0], MASK)
    assert all("pcb1" in record.path.parts for record in data.records)


def test_true_is_found_however_it_is_written_and_blank_rows_are_none(
    table: Callable[[str], Path], tmp_path: Path
) -> None:
    file = table("path,label,line\n0.png,0,true\n,,\n1.png,0,True\n2.png,0,FALSE\n , ,\n3.png,0,TRUE\n\n,,\n")
    for value, names in ((True, ["0.png", "1.png", "3.png"]), (False, ["2.png"]), ("True", ["1.png"])):
        assert [row.path.name for row in read_manifest(file, tmp_path, where={"line": value})] == names
    assert len(read_manifest(file, tmp_path)) == 4
