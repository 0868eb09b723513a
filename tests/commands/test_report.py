"""The report of a run: what the page holds, that hostile names stay text, and that it works in a real browser."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.callbacks.kept import KeptTest
from vaex.callbacks.kept_methods import Normal
from vaex.commands.report import report_on, try_report, write_report
from vaex.commands.report_gallery import score_bytes
from vaex.errors import VaexError
from vaex.runs import KEPT_TEST
from vaex.scores import Scored
from vaex.types import Explanation
from vaex.viz import save_png

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
COUNT = 24
VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """What a browser would find: elements by tag, ids, text by tag; tags that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def data(self) -> Any:
        (text,) = (text for tag, text in self.texts if tag == "script" and text.startswith("{"))
        return json.loads(text)


def other_maps(method: Any, images: torch.Tensor, latents: list[int]) -> torch.Tensor:
    return images[:, :1].expand(-1, len(latents), -1, -1)


def keep_test(
    folder: Path,
    normal: Normal | None = None,
    count: int = COUNT,
    labelled: bool = True,
    image_of: torch.Tensor | None = None,
) -> None:
    """A test of which image 0 (anomalous) scores lowest and image 23 (normal) second highest."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) < COUNT // 2
    masks = torch.zeros(COUNT, 1, 32, 32)
    masks[labels, :, 8:20, 10:14] = 1
    images = 0.5 * torch.rand(COUNT, 3, 32, 32, generator=generator)
    score_map = torch.rand(COUNT, 1, 32, 32, generator=generator) + masks
    score = torch.arange(COUNT).flip(0).float()
    score[0], score[23] = -5, 21.5
    maps, kl = torch.rand(COUNT, 3, 32, 32, generator=generator), torch.ones(COUNT, 3)
    kept = KeptTest("own", names=["good", HOSTILE], methods=["hires_cam"])
    others = {"other": Scored(score_map.flip(2)[:count] - 0.5, score[:count])}
    truth = (labels.long(), masks, labels.long()) if labelled else (None, None, None)
    first = slice(count)
    explanation = Explanation(*(part[first] for part in (maps, score_map, score, kl, kl, kl, images)))
    label, mask, kind = (None if part is None else part[first] for part in truth)
    kept.update(images[first], explanation, others, label, mask, kind, image_of)
    kept.write(folder / KEPT_TEST, other_maps, normal)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run <b>&"
    (run / ".hydra").mkdir(parents=True)
    config = {"name": HOSTILE, "data": {"_target_": "vaex.data.MVTec", "category": "bottle"}, "score": {"name": "own"}}
    (run / ".hydra" / "config.yaml").write_text(json.dumps(config))
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([f"name={HOSTILE}"]))
    record = {"status": "finished", "command": f"vaex train name={HOSTILE}", "seed": 3, "wall_seconds": 60.0}
    (run / "run.json").write_text(json.dumps(record))
    test = {"loss": 3.0, "pixel_auroc": 0.91, "aupro": 0.8, f"aupro_own/{HOSTILE}": 0.7, "aupro_own": 0.8}
    test |= {"aupro_other": 0.9, f"aupro_other/{HOSTILE}": 0.95}
    (run / "metrics.json").write_text(json.dumps({"test": test, "val": {"loss": 2.0}}))
    rows = ["epoch,step,train/loss,val/loss,test/loss", "0,9,5,,", "0,9,,6,", "1,19,4,,", "1,19,,5,", "2,20,,,3"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    for name in ("traversal_test", "traversal_val", "mutual_information_test", "attention_test"):
        save_png(np.zeros((4, 4, 3), np.uint8), run / "figures" / f"{name}.png")
    keep_test(run)
    return run


def test_the_page_holds_every_part(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert not page.open
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *(
            "summary",
            "metrics",
            "gallery",
            "failures",
            "kinds",
            "traversals",
            "factors",
            "pictures",
            "curves",
            "config",
        ),
    ]
    assert [link["href"] for link in page.all("a")][1:] == [f"#{name}" for name in sections]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for reference in ("aria-labelledby", "aria-describedby", "for"):
        assert {attributes[reference] for _, attributes in page.tags if attributes.get(reference)} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert sum("aria-label" in svg for svg in page.all("svg")) == 6  # five curves, one of training


def test_numbers_of_pixels_have_their_resolution(folder: Path) -> None:
    assert "compared at" not in write_report(folder).read_text()  # its config states none
    path = folder / ".hydra" / "config.yaml"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "metrics": {"resolution": 48}}))
    page = Page(write_report(folder).read_text())
    assert sum("compared at 48 pixels a side" in text for tag, text in page.texts if tag == "p") == 2


def test_one_validation_is_no_curve(folder: Path) -> None:
    rows = ["epoch,step,train/loss,val/loss,val/entropy", "0,9,5,,", "0,19,4,,", "0,19,,6,1", "0,20,,6,1"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    page = Page(write_report(folder).read_text())
    drawn = [str(svg["aria-label"]) for svg in page.all("svg") if "optimiser step" in str(svg.get("aria-label"))]
    assert drawn == ["loss: nats per image against optimiser step"]


def test_nothing_is_fetched(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert not page.all("link")
    for _, attributes in page.tags:
        assert "src" not in attributes or str(attributes["src"]).startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = (meta for meta in page.all("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in str(policy["content"])


def test_hostile_names_stay_text(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert HOSTILE not in text
    page = Page(text)
    assert len(page.all("script")) == 2
    shown = {tag for tag, words in page.texts if HOSTILE in words}
    assert {"title", "h1", "code", "th"} <= shown
    assert any(tag == "pre" and "</script><script>" in words for tag, words in page.texts)
    assert HOSTILE in {item["kind"] for item in page.data()["gallery"]["items"]}


def test_kinds_and_maps_that_would_reorder_text_are_shown(folder: Path) -> None:
    with np.load(folder / KEPT_TEST) as found:
        arrays = dict(found)
    about = json.loads(str(arrays["about"]).replace('"good"', '"go\\u202eod"'))
    about["score"] = "own\u202e"
    np.savez(folder / KEPT_TEST, **{**arrays, "about": np.array(json.dumps(about))})
    text = write_report(folder).read_text()
    gallery = Page(text).data()["gallery"]
    assert "go\\u202eod" in {item["kind"] for item in gallery["items"]}
    assert gallery["maps"][0]["title"].startswith("own\\u202e")
    assert "\u202e" not in text


def test_numbers_stand_beside_the_paper_and_the_controls(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    words = [text for tag, text in page.texts if tag in ("td", "th")]
    row = words[words.index("expVAE") :]
    assert row[2] == "0.8700"  # pixel AUROC of bottle in table 2 of the paper
    assert "own (this run's score)" in words
    assert {"0.9500", "0.7000"} <= set(words)


def test_the_paper_stands_beside_ped1(folder: Path) -> None:
    path = folder / ".hydra" / "config.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": {"_target_": "vaex.data.Ped1"}}))
    words = [text for tag, text in Page(write_report(folder).read_text()).texts if tag in ("td", "th")]
    row = words[words.index("expVAE, maps of conv2") :]
    assert row[2] == "0.9200"  # pixel AUROC in table 1 of the paper
    assert "AE (SSIM)" not in words


def test_numbers_have_units_and_thresholds_are_no_f1(folder: Path) -> None:
    test = {"loss": 3.0, "f1_max": 0.5, "f1_max_own": 0.5, "f1_max_other": 0.4}
    test |= {"f1_max_threshold": 7.0, "f1_max_threshold_own": 7.0, "f1_max_threshold_other": 9.0}
    (folder / "metrics.json").write_text(json.dumps({"test": test}))
    page = Page(write_report(folder).read_text())
    words = [text for tag, text in page.texts if tag in ("td", "th", "caption")]
    assert words[words.index("loss") + 1] == "nats per image, low"
    kinds = words[words.index("f1_max, [0, 1], test") : words.index("f1_max_threshold, units of the score, test")]
    assert kinds == ["f1_max, [0, 1], test", "score", "all", "own (this run's score)", "0.5000", "other", "0.4000"]
    assert [dict(attributes) for tag, attributes in page.tags if attributes.get("class") == "n best"] == [
        {"class": "n best"}
    ]


def test_zero_is_the_middle_of_scores_of_both_signs() -> None:
    scaled, low, high = score_bytes(np.array([-1.0, 0.0, 4.0, np.nan]))
    assert (low, high) == (-4, 4)
    assert scaled.tolist() == [96, 128, 255, 0]  # of -4..4: 3/8, 1/2 and 1 of 255
    assert score_bytes(np.array([0.0, 4.0]))[1:] == (0, 4)
    assert score_bytes(np.array([-4.0, -2.0]))[1:] == (-4, -2)


def test_failures_are_named_worst_first(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    failures = {i["name"]: i["failure"] for i in page.data()["gallery"]["items"] if i["failure"]}
    assert failures["test image 0"] == {"rank": 0, "why": "missed: 12 of 12 normal images score higher"}
    assert failures["test image 23"]["why"] == "false alarm: scores above 11 of 12 anomalous images"
    assert len(failures) == 2


def test_points_and_levels_fit_together(folder: Path) -> None:
    data = Page(write_report(folder).read_text()).data()
    count = len(data["pixel"]["thresholds"])
    assert {len(data["pixel"][name]) for name in ("fpr", "tpr", "precision", "pro")} == {count}
    assert [one["title"] for one in data["gallery"]["maps"] if one["threshold"]] == ["own (this run's score)"]
    maps = data["gallery"]["maps"]
    assert len(maps) == 8  # own score, other score, three latents by two methods
    assert [one["method"] for one in maps] == [None, None, *3 * ["grad_cam"], *3 * ["hires_cam"]]


def part(gallery: Any, name: str, index: int) -> np.ndarray:
    where, block = gallery["parts"][name], zlib.decompress(base64.b64decode(gallery["packed"]))
    return np.frombuffer(block[where["start"] + index * where["size"] :][: where["size"]], np.uint8)


def test_the_block_holds_what_was_kept(folder: Path) -> None:
    gallery = Page(write_report(folder).read_text()).data()["gallery"]
    with np.load(folder / KEPT_TEST) as arrays:
        for index in (0, 5):
            assert (part(gallery, "image", index) == arrays["image"][index].ravel()).all()
            assert (part(gallery, "mask", index) == arrays["mask"][index].ravel()).all()
            assert (part(gallery, "map1", index) == arrays["other:other"][index].ravel()).all()
            assert (part(gallery, "map5", index) == arrays["latent:0@1"][index].ravel()).all()


NORMAL = Normal([float(n) for n in range(20)], [0.9 + 0.05 * n for n in range(20)])
"""Of 20 normal images at most 5 % score above the highest but none: k = 21 - floor(0.05 * 21) = 20, the highest, 19."""


def test_the_calibrated_threshold_is_marked_and_begins(folder: Path) -> None:
    keep_test(folder, NORMAL)
    text = write_report(folder).read_text()
    page, image = Page(text), Page(text).data()["image"]
    cut = image["thresholds"][image["calibrated"]]
    assert cut == np.nextafter(19.0, np.inf)
    assert image["begin"] == image["calibrated"] != image["best"]
    assert image["fpr"][image["calibrated"]] == pytest.approx(1 / 12)  # 21.5 alone
    assert image["tpr"][image["calibrated"]] == pytest.approx(3 / 12)  # of 12 to 22 and -5: 20, 21, 22
    assert sum(attributes.get("class") == "mark" for _, attributes in page.tags) == 5
    assert "Anomalous is an image whose own score is above 19." in text
    assert "Called wrongly at the calibrated threshold" in text
    told = "of whole images, of the highest of their tiles; the images of this test are not cut into tiles"
    assert told not in text
    failures = [item["failure"]["why"] for item in page.data()["gallery"]["items"] if item["failure"]]
    assert sum(why.startswith("false alarm") for why in failures) == 1
    higher = Page(write_report(folder, rate=0.5).read_text()).data()["image"]
    assert higher["thresholds"][higher["calibrated"]] == np.nextafter(10.0, np.inf)  # k = 21 - 10 = 11th lowest
    keep_test(folder, NORMAL._replace(tiles=True))
    assert told in write_report(folder).read_text()


WHOSE = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 1, 9])
"""Of which image each is, where the test is one of tiles: of 10, of which 0 to 3 are anomalous."""


def test_of_tiles_the_image_curves_and_failures_are_of_whole_images(folder: Path) -> None:
    """Tile 0, the lowest, is of the image of tile 1, the highest; tile 23, second highest, is alone in image 9."""
    keep_test(folder, NORMAL._replace(tiles=True), image_of=WHOSE)
    text = write_report(folder).read_text()
    data, words = Page(text).data(), " ".join(words for _, words in Page(text).texts)
    score = torch.arange(COUNT).flip(0).float()
    score[0], score[23] = -5, 21.5
    highest = [float(score[image == WHOSE].max()) for image in range(10)]
    assert highest[:4] == [22, 20, 17, 14]
    image = data["image"]
    assert image["thresholds"] == sorted([*highest, float(np.nextafter(19.0, np.inf))])
    for place, cut in enumerate(image["thresholds"]):
        assert image["tpr"][place] == pytest.approx(np.mean([one >= cut for one in highest[:4]]))
        assert image["fpr"][place] == pytest.approx(np.mean([one >= cut for one in highest[4:]]))
    assert image["thresholds"][image["begin"]] == np.nextafter(19.0, np.inf)
    assert "Image curves: 10 test images, each the highest of its tiles, 24 in all." in words
    assert "Pixel curves: maps and masks of 24 test tiles" in words
    assert "of the highest of their tiles; so are the image curves, while pixel curves and the cards below" in words
    failures = {item["name"]: item["failure"]["why"] for item in data["gallery"]["items"] if item["failure"]}
    assert failures == {
        "test tile 9": "missed: 1 of 6 normal images score higher",
        "test tile 6": "missed: 1 of 6 normal images score higher",
        "test tile 23": "false alarm: scores above 3 of 4 anomalous images",
    }
    assert data["gallery"]["called"] == "tiles"
    assert "Names count test tiles from 0" in words
    assert "processes" not in words
    keep_test(folder, NORMAL, image_of=WHOSE)
    assert "Both are of images that were not cut: an image of many tiles is above more often." in page_words(folder)


def test_curves_of_one_of_several_processes_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaex.callbacks.kept.processes", lambda: 2)
    told = "Curves are of what the first of 2 processes saw of the test, the numbers under Metrics of all."
    keep_test(folder, NORMAL)
    assert told in page_words(folder)
    assert "highest tile of an image" not in page_words(folder)
    keep_test(folder, NORMAL, image_of=WHOSE)
    also = "may have been seen by another, and so may all that show its defect: then it counts as normal here."
    assert f"{told} The highest tile of an image {also}" in page_words(folder)


def test_a_page_of_held_out_images_takes_them_for_no_test(folder: Path) -> None:
    """They are those of its thresholds, are not the images that explain counts, and another run has some, too."""
    path = folder / ".hydra" / "config.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out": True}))
    keep_test(folder, NORMAL)
    measured = {"held_out": {"loss": 1.25, "aupro_own": 0.75}, "test": {"loss": 1.5, "aupro_own": 0.625}}
    (folder / "metrics.json").write_text(json.dumps(measured))
    other = folder.parent / "other"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"held_out": {"loss": 2.125}}))
    page = Page(write_report(folder, [str(other)]).read_text())
    words = " ".join(text for _, text in page.texts)
    assert "made of the very normal images of this page: their false alarms are no evidence." in words
    assert "Names count held-out images and their copies from 0; test_images=[N] of vaex explain shows others." in words
    assert "as test_images=[N]" not in words
    assert any(text.endswith("(other), held_out") for _, text in page.texts)
    assert "2.1250" in words
    assert "aupro, [0, 1], held_out" in words  # kinds: of the stage that the pictures are of
    assert "very normal images" not in page_words(other)


def test_measures_of_a_run_in_tiles_say_what_they_count(folder: Path) -> None:
    told = "image_auroc and image_ap are of whole images"
    path = folder / ".hydra" / "config.yaml"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "data": {**config["data"], "tile": 32}}))
    assert told not in page_words(folder)  # it measured none
    test = json.loads((folder / "metrics.json").read_text())["test"] | {"image_auroc": 0.5}
    (folder / "metrics.json").write_text(json.dumps({"test": test}))
    assert told in page_words(folder)
    path.write_text(json.dumps(config))
    assert told not in page_words(folder)


def page_words(folder: Path) -> str:
    """Return the text of the page."""
    return " ".join(words for _, words in Page(write_report(folder).read_text()).texts)


def test_without_calibration_the_page_says_why(folder: Path) -> None:
    keep_test(folder, Normal([], [], "the checkpoint keeps no <b>scores</b>"))
    page = Page(write_report(folder).read_text())
    assert any("No calibrated threshold: the checkpoint keeps no <b>scores</b>" in words for _, words in page.texts)
    assert page.data()["image"]["calibrated"] is None
    assert page.data()["image"]["begin"] == page.data()["image"]["best"]


def test_unlabelled_images_are_judged_by_calibration_alone(folder: Path) -> None:
    keep_test(folder, NORMAL, labelled=False)
    data = Page(write_report(folder).read_text()).data()
    assert "fpr" not in data["image"]
    assert data["image"]["share"][data["image"]["calibrated"]] == pytest.approx(4 / 24)
    assert data["pixel"]["best"] is None
    keep_test(folder, labelled=False)
    data = Page(write_report(folder).read_text()).data()
    assert (data["image"], data["pixel"]) == (None, None)


def test_one_image_has_a_page(folder: Path) -> None:
    for normal in (None, NORMAL):
        keep_test(folder, normal, count=1)
        data = Page(write_report(folder).read_text()).data()
        assert len(data["gallery"]["items"]) == 1
        assert (data["image"] is None) == (normal is None)


def test_a_large_page_leaves_out_pictures_and_then_methods(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_report(folder).stat().st_size
    monkeypatch.setattr("vaex.commands.report.LARGEST", whole - 1)
    fewer = Page(write_report(folder).read_text())
    assert len(fewer.all("img")) == 2
    assert len(fewer.data()["gallery"]["maps"]) == 8
    assert any(words.endswith(" MB: Test images.") for _, words in fewer.texts)
    monkeypatch.setattr("vaex.commands.report.LARGEST", 1000)
    least = Page(write_report(folder).read_text())
    assert not least.all("img")
    assert {one["method"] for one in least.data()["gallery"]["maps"]} == {None, "grad_cam"}
    assert [one["title"] for one in least.data()["gallery"]["maps"]][:2] == ["own (this run's score)", "latent 0"]
    told = "Traversals, Latents and factors, Test images, maps of further methods, maps of the other scores."
    assert any(told in words for _, words in least.texts)


def test_values_that_are_no_numbers_are_shown_as_such(folder: Path) -> None:
    kept = KeptTest("own")
    maps, score = torch.rand(3, 1, 8, 8), torch.tensor([1.0, float("nan"), 3.0])
    maps[1, 0, 0, 0], maps[2, 0, 0, 0] = float("nan"), float("inf")
    kept.update(maps, Explanation(maps, maps, score, score[:, None], None, None, None), {}, None, None, None)
    kept.write(folder / KEPT_TEST, normal=NORMAL)
    items = Page(write_report(folder).read_text()).data()["gallery"]["items"]
    assert [item["score"] for item in items] == [1, None, 3]


def test_other_runs_stand_beside_it(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"test": {"loss": 1.25}}))
    text = write_report(folder, [str(other)], tmp_path / "page.html").read_text()
    assert "1.2500" in text
    assert not (folder / "report.html").exists()


def test_a_run_that_kept_little_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val": {"loss": 1.0}}')
    (tmp_path / KEPT_TEST).parent.mkdir()
    (tmp_path / KEPT_TEST).write_bytes(b"damaged")
    text = write_report(tmp_path).read_text()
    assert "report_test.npz is damaged" in text
    (tmp_path / KEPT_TEST).unlink()
    text = write_report(tmp_path).read_text()
    assert "kept no images" in text
    assert [part["id"] for part in Page(text).all("section")] == ["summary", "metrics", "gallery"]


@pytest.mark.parametrize("lost", ["rows", "gallery", "ranges", "score", "image", "few rows", "about"])
def test_what_lacks_a_part_is_called_damaged(folder: Path, lost: str) -> None:
    with np.load(folder / KEPT_TEST) as found:
        arrays = {name: found[name] for name in found.files if name != lost}
    about = json.loads(str(arrays["about"])) if lost != "about" else {}
    about.pop(lost, None)
    if lost == "few rows":
        about["rows"] = about["rows"][:3]
    np.savez(folder / KEPT_TEST, **{**arrays, "about": np.array(json.dumps([about] if lost == "about" else about))})
    assert "report_test.npz is damaged" in write_report(folder).read_text()


def test_files_that_are_no_pictures_are_left_out(folder: Path) -> None:
    (folder / "figures" / "attention_test.png").write_bytes(b"no picture")
    (folder / "figures" / "traversal_new.png").mkdir()
    assert len(Page(write_report(folder).read_text()).all("img")) == 2


def test_a_page_that_fails_does_not_lose_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_report(tmp_path) is None
    assert "no report written" in capsys.readouterr().err


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    with pytest.raises(VaexError, match="vaex report run=RUN_FOLDER"):
        report_on(OmegaConf.create({"run": None, "runs": None, "out": None, "false_alarm_rate": 0.05}))
    with pytest.raises(VaexError, match="false_alarm_rate must be"):
        report_on(OmegaConf.create({"run": str(tmp_path), "runs": None, "out": None, "false_alarm_rate": 5}))
    with pytest.raises(VaexError, match="no run folder"):
        write_report(tmp_path / "none")
    with pytest.raises(VaexError, match=r"no metrics\.json"):
        write_report(tmp_path)
