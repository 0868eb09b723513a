"""Draw best and worst cases of a run's test, kept for its report: python docs/images/defects.py RUN_FOLDER OUT.jpg."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vaex.viz import attention_figure, figure_to_array

run, out = Path(sys.argv[1]), sys.argv[2]
kept = np.load(run / "maps" / "report_test.npz")
about = json.loads(str(kept["about"]))
images = [{**about["rows"][position], "place": place} for place, position in enumerate(about["gallery"])]
ranked = sorted(images, key=lambda row: -row["score"])
anomalous, normal = ([row for row in ranked if bool(row["label"]) == flawed] for flawed in (True, False))
chosen = [*anomalous[:3], *anomalous[-3:], *normal[:2]]
places = [row["place"] for row in chosen]
maps = kept["score"][places][:, None]
figure = attention_figure(
    kept["image"][places].transpose(0, 3, 1, 2) / 255,
    None,
    np.kron(maps, np.ones((1, 1, *(np.array(kept["image"].shape[1:3]) // maps.shape[2:])), np.float32)),
    titles=[about["score"].replace("_", " ")],
    masks=kept["mask"][places][:, None],
    scores=[row["score"] for row in chosen],
    rows=[row["kind"] for row in chosen],
    colormap="viridis",
    label="score",
)
Image.fromarray(figure_to_array(figure)).convert("RGB").save(out, quality=90)
