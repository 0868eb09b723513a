"use strict";
// Draws the gallery and moves the thresholds. Text is only ever set as text, never as markup.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const number = (value) => {
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  const percent = (value) => (100 * value).toFixed(value < 0.01 ? 2 : 1) + " %";
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  function moveDots(curve, index) {
    document.querySelectorAll('.dot[data-curve="' + curve + '"]').forEach((dot) => {
      const points = JSON.parse(dot.getAttribute("data-points"));
      dot.setAttribute("cx", points[index][0]);
      dot.setAttribute("cy", points[index][1]);
    });
  }

  const gallery = data.gallery;
  const pixel = data.pixel;
  const image = data.image;
  const tables = { sequential: bytes(data.tables.sequential), diverging: bytes(data.tables.diverging) };
  let items = [];
  if (gallery) {
    const [rows, columns] = gallery.map_size, [height, width] = gallery.image_size;
    items = gallery.items.map((item) => {
      item.pixels = bytes(item.image);
      item.truth = item.mask ? bytes(item.mask) : null;
      item.decoded = item.reconstruction ? bytes(item.reconstruction) : null;
      item.values = item.maps.map(bytes);
      return item;
    });

    const scratch = element("canvas");
    scratch.width = columns;
    scratch.height = rows;
    const brush = scratch.getContext("2d");

    // Pixels of the smaller map that the overlay shows, as a canvas
    function coloured(item, map, painted) {
      const entry = gallery.maps[map], values = item.values[map], picture = brush.createImageData(columns, rows);
      const signed = entry.low < 0 && entry.high > 0, table = signed ? tables.diverging : tables.sequential;
      const opacity = Number(byId("opacity").value) / 100, cut = painted ? Number(byId("pixel-threshold").value) : -1;
      for (let i = 0; i < values.length; i++) {
        let red, green, blue, alpha;
        if (painted && entry.threshold) {
          const above = item.levels_bytes[i] > cut;
          [red, green, blue] = [230, 159, 0];
          alpha = above ? opacity : 0;
        } else {
          const value = values[i], level = signed ? Math.abs(value - 127.5) / 127.5 : value / 255;
          [red, green, blue] = [table[3 * value], table[3 * value + 1], table[3 * value + 2]];
          alpha = opacity * Math.sqrt(level);
        }
        picture.data.set([red, green, blue, 255 * alpha], 4 * i);
      }
      brush.putImageData(picture, 0, 0);
      return scratch;
    }

    // Small images are drawn larger than they are, so that outlines stay thin
    const factor = Math.max(1, Math.round(320 / width)), plate = element("canvas");
    plate.width = width;
    plate.height = height;
    const under = plate.getContext("2d");

    function paint(canvas, item, map, painted) {
      canvas.width = width * factor;
      canvas.height = height * factor;
      const context = canvas.getContext("2d"), picture = under.createImageData(width, height);
      const source = map === "decoded" ? item.decoded : item.pixels, plain = typeof map === "string";
      for (let i = 0; i < width * height; i++) {
        let [red, green, blue] = [source[3 * i], source[3 * i + 1], source[3 * i + 2]];
        if (!plain) red = green = blue = 31 + 0.73 * (0.299 * red + 0.587 * green + 0.114 * blue);
        picture.data.set([red, green, blue, 255], 4 * i);
      }
      under.putImageData(picture, 0, 0);
      context.drawImage(plate, 0, 0, canvas.width, canvas.height);
      if (!plain) {
        context.imageSmoothingEnabled = !painted;
        context.drawImage(coloured(item, map, painted), 0, 0, canvas.width, canvas.height);
      }
      if (item.truth && byId("outline") && byId("outline").checked) outline(context, item.truth);
    }

    // Cyan on black: seen on any ground
    function outline(context, truth) {
      const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && truth[y * width + x] > 0;
      const edge = (x0, y0, x1, y1) => {
        context.moveTo(x0 * factor, y0 * factor);
        context.lineTo(x1 * factor, y1 * factor);
      };
      context.beginPath();
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (!inside(x, y)) continue;
          if (!inside(x - 1, y)) edge(x, y, x, y + 1);
          if (!inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
          if (!inside(x, y - 1)) edge(x, y, x + 1, y);
          if (!inside(x, y + 1)) edge(x, y + 1, x + 1, y + 1);
        }
      }
      context.lineCap = "square";
      for (const [colour, line] of [["#000", 5], ["#00e5ff", 2.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.stroke();
      }
    }

    if (pixel) items.forEach((item) => { item.levels_bytes = bytes(item.levels); });
    const alarm = (item) => image && item.score >= image.thresholds[Number(byId("image-threshold").value)];
    const verdict = (item) => {
      if (!image) return "";
      const called = alarm(item), right = item.label === null || called === (item.label === 1);
      const word = called ? "called anomalous" : "called normal";
      return right ? word : word + ", wrong";
    };
    const truth = (item) => (item.kind !== null ? item.kind : item.label === null ? "" : item.label ? "anomalous" : "normal");

    function describe(item) {
      return [item.name, truth(item), "score " + number(item.score), verdict(item)].filter(Boolean).join(", ");
    }

    function card(item) {
      const button = element("button"), canvas = element("canvas", undefined, "view");
      button.type = "button";
      button.append(canvas, element("span", item.name), element("span"), element("span"));
      button.addEventListener("click", () => enlarge(item));
      const line = element("li");
      line.append(button);
      return { item, line, button, canvas, facts: button.children[2], verdict: button.children[3] };
    }

    const cards = items.map(card);
    const failures = items.filter((item) => item.failure).sort((a, b) => a.failure.rank - b.failure.rank).map(card);

    function selected() {
      const value = byId("map").value;
      return /^\d+$/.test(value) ? Number(value) : value;
    }

    function draw() {
      const map = selected(), painted = Boolean(byId("paint") && byId("paint").checked) && typeof map === "number" && gallery.maps[map].threshold;
      for (const one of [...cards, ...failures]) {
        paint(one.canvas, one.item, map, painted);
        one.button.setAttribute("aria-label", describe(one.item) + ". Enlarge.");
        one.facts.textContent = [truth(one.item), "score " + number(one.item.score)].filter(Boolean).join(", ");
        one.verdict.textContent = verdict(one.item);
        one.verdict.className = one.verdict.textContent.endsWith("wrong") ? "wrong" : "";
      }
      bar(map, painted);
    }

    function bar(map, painted) {
      const canvas = byId("bar"), context = canvas.getContext("2d");
      byId("bar-row").hidden = typeof map === "string";
      if (typeof map === "string") return;
      const entry = gallery.maps[map], table = entry.low < 0 && entry.high > 0 ? tables.diverging : tables.sequential;
      canvas.width = 256;
      canvas.height = 1;
      const picture = context.createImageData(256, 1);
      for (let i = 0; i < 256; i++) {
        picture.data.set(painted ? [230, 159, 0, 255] : [table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
      }
      context.putImageData(picture, 0, 0);
      const cut = painted ? pixel.thresholds[Number(byId("pixel-threshold").value)] : entry.low;
      byId("bar-low").textContent = (painted ? "above " : "") + number(cut);
      byId("bar-high").textContent = painted ? "" : number(entry.high) + " (" + entry.unit + "; one scale for all images)";
    }

    function order() {
      const by = byId("order").value, show = byId("show").value;
      const sign = by === "least" ? 1 : -1;
      const sorted = [...cards].sort((a, b) => sign * (a.item.score - b.item.score));
      const kept = sorted.filter(({ item }) => show === "all" || (show === "wrong" ? verdict(item).endsWith("wrong") : item.label === Number(show)));
      byId("cards").replaceChildren(...kept.map((one) => one.line));
      byId("count").textContent = kept.length + " of " + cards.length + " kept images (the test had " + gallery.total + ")";
    }

    function enlarge(item) {
      const dialog = byId("large"), many = byId("large-maps");
      byId("large-title").textContent = describe(item);
      const views = [["image", "image"]].concat(item.decoded ? [["decoded", "reconstruction"]] : [], gallery.maps.map((entry, index) => [index, entry.title]));
      many.replaceChildren(...views.map(([map, title]) => {
        const figure = element("figure"), canvas = element("canvas", undefined, "view");
        paint(canvas, item, map, false);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", title + " of " + item.name);
        const entry = gallery.maps[map];
        const range = entry ? " (" + number(entry.low) + " to " + number(entry.high) + ")" : "";
        figure.append(canvas, element("figcaption", title + range));
        return figure;
      }));
      dialog.showModal();
    }

    for (const id of ["map", "opacity", "outline", "paint"]) if (byId(id)) byId(id).addEventListener("input", draw);
    for (const id of ["order", "show"]) byId(id).addEventListener("input", order);
    byId("opacity").addEventListener("input", () => { byId("opacity-value").textContent = byId("opacity").value + " %"; });
    byId("large-close").addEventListener("click", () => byId("large").close());
    if (byId("failure-cards")) byId("failure-cards").replaceChildren(...failures.map((one) => {
      one.line.append(element("p", one.item.failure.why));
      return one.line;
    }));
    gallery.draw = () => { draw(); order(); };
  }

  function readPixel() {
    const index = Number(byId("pixel-threshold").value);
    byId("pixel-value").textContent = number(pixel.thresholds[index]) + ": " + percent(pixel.fpr[index]) + " of normal pixels, " +
      percent(pixel.tpr[index]) + " of anomalous pixels and " + percent(pixel.pro[index]) + " of a region on average are painted; precision " + percent(pixel.precision[index]);
    moveDots("pixel", index);
  }

  function readImage() {
    const index = Number(byId("image-threshold").value);
    byId("image-value").textContent = number(image.thresholds[index]) + ": " + percent(image.fpr[index]) + " of normal and " +
      percent(image.tpr[index]) + " of anomalous images are called anomalous; precision " + percent(image.precision[index]);
    moveDots("image", index);
  }

  if (pixel) {
    byId("pixel-threshold").addEventListener("input", () => {
      readPixel();
      if (gallery) {
        if (byId("paint")) byId("paint").checked = true;
        byId("map").value = String(gallery.maps.findIndex((entry) => entry.threshold));
        gallery.draw();
      }
    });
    readPixel();
  }
  if (image) {
    byId("image-threshold").addEventListener("input", () => { readImage(); if (gallery) gallery.draw(); });
    readImage();
  }
  if (gallery) gallery.draw();
  document.documentElement.dataset.ready = "true";
})();
