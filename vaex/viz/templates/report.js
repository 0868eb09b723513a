// The controls of the page: thresholds, and what the gallery shows.
(async function () {
  const data = JSON.parse(byId("data").textContent);
  const { gallery, pixel, image } = data;
  const number = (value) => {
    if (value === null) return "undefined";
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  const percent = (value) => (100 * value).toFixed(value < 0.01 ? 2 : 1) + "\u00a0%";
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const position = (name) => Number(byId(name + "-threshold").value);
  const checked = (id) => Boolean(byId(id) && byId(id).checked);
  let redraw = () => {}, paintPixels = () => {};

  function moveDots(curve, index) {
    document.querySelectorAll('.dot[data-curve="' + curve + '"]').forEach((dot) => {
      const points = JSON.parse(dot.getAttribute("data-points"));
      dot.setAttribute("cx", points[index][0]);
      dot.setAttribute("cy", points[index][1]);
    });
  }

  // The threshold, which it is if it has a name, and what it does
  function read(name, points, known, unknown) {
    const index = position(name), named = { calibrated: "calibrated", best: "highest F1" };
    const which = Object.keys(named).filter((key) => points[key] === index).map((key) => named[key]).join(", ");
    const does = points.fpr ? known(index) : percent(points.share[index]) + unknown;
    const said = number(points.thresholds[index]) + (which ? " (" + which + ")" : "") + ": " + does;
    byId(name + "-value").textContent = said;
    byId(name + "-threshold").setAttribute("aria-valuetext", said);
    document.querySelectorAll('[data-slider="' + name + '-threshold"]').forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.value) === index));
    });
    moveDots(name, index);
  }

  const readPixel = () => read("pixel", pixel, (i) => percent(pixel.fpr[i]) + " of normal pixels, " + percent(pixel.tpr[i]) +
    " of anomalous pixels and " + percent(pixel.pro[i]) + " of a region on average are painted; precision " + percent(pixel.precision[i]),
    " of pixels are painted");
  const readImage = () => read("image", image, (i) => percent(image.fpr[i]) + " of normal and " + percent(image.tpr[i]) +
    " of anomalous images are called anomalous; precision " + percent(image.precision[i]), " of test images are called anomalous");

  if (pixel) {
    byId("pixel-threshold").addEventListener("input", () => { readPixel(); paintPixels(); });
    readPixel();
  }
  if (image) {
    byId("image-threshold").addEventListener("input", () => { readImage(); redraw(); });
    readImage();
  }
  document.querySelectorAll("[data-slider]").forEach((button) => button.addEventListener("click", () => {
    const slider = byId(button.dataset.slider);
    slider.value = button.dataset.value;
    slider.dispatchEvent(new Event("input"));
  }));

  async function show() {
    const items = await unpacked(gallery), painter = painterOf(gallery, data.tables);
    const alarm = (item) => image && item.score !== null && item.score >= image.thresholds[position("image")];
    const verdict = (item) => {
      if (!image) return "";
      const called = alarm(item), right = item.label === null || called === (item.label === 1);
      return (called ? "called anomalous" : "called normal") + (right ? "" : ", wrong");
    };
    const truth = (item) => (item.kind !== null ? item.kind : item.label === null ? "" : item.label ? "anomalous" : "normal");
    const facts = (item) => [truth(item), "score " + number(item.score)].filter(Boolean).join(", ");
    const describe = (item) => [item.name, facts(item), verdict(item)].filter(Boolean).join(", ");
    const drawn = (map) => items.some((item) => item.values[map].some(Boolean)); // one that is 0 everywhere has no range
    const method = () => (byId("method") ? byId("method").value : null);

    // Number of the map that is chosen, of several by the method; "plain" or "decoded" without one
    function selected() {
      const value = byId("map").value;
      if (!/^\d+$/.test(value)) return value;
      const entry = gallery.maps[Number(value)];
      if (entry.method === null) return Number(value);
      const found = gallery.maps.findIndex((one) => one.title === entry.title && one.method === method());
      return found < 0 ? Number(value) : found;
    }

    function card(item) {
      const button = element("button"), canvas = element("canvas", undefined, "view"), line = element("li");
      button.type = "button";
      button.append(canvas, element("span", item.name), element("span"), element("span"));
      button.addEventListener("click", () => enlarge(item));
      line.append(button);
      return { item, line, button, canvas, facts: button.children[2], verdict: button.children[3] };
    }

    const cards = items.map(card);
    const failures = items.filter((item) => item.failure).sort((a, b) => a.failure.rank - b.failure.rank).map(card);

    function draw() {
      const map = selected(), painted = checked("paint") && typeof map === "number" && gallery.maps[map].threshold;
      for (const one of [...cards, ...failures]) {
        painter.paint(one.canvas, one.item, map, painted ? position("pixel") : null);
        one.button.setAttribute("aria-label", describe(one.item) + ". Enlarge.");
        one.facts.textContent = facts(one.item);
        one.verdict.textContent = verdict(one.item);
        one.verdict.className = one.verdict.textContent.endsWith("wrong") ? "wrong" : "";
      }
      byId("bar-row").hidden = typeof map === "string";
      if (byId("method")) byId("method").disabled = typeof map === "string" || gallery.maps[map].method === null;
      if (typeof map === "string") return;
      const { low, high, unit, title, method: by } = gallery.maps[map];
      painter.bar(byId("bar"), gallery.maps[map], null, painted);
      byId("bar-low").textContent = painted ? "above " + number(pixel.thresholds[position("pixel")]) : number(low);
      const one = title + (by === null ? "" : " by " + by) + "; one scale for all images";
      const none = drawn(map) ? "" : "; 0 everywhere";
      byId("bar-high").textContent = painted ? "" : number(high) + " (" + unit + ": " + one + none + ")";
    }

    function order() {
      const shown = byId("show").value, sign = byId("order").value === "least" ? 1 : -1;
      const fits = ({ item }) => shown === "all" || (shown === "wrong" ? verdict(item).endsWith("wrong") : item.label === Number(shown));
      const kept = [...cards].sort((a, b) => sign * (a.item.score - b.item.score)).filter(fits);
      byId("cards").replaceChildren(...kept.map((one) => one.line));
      byId("count").textContent = kept.length + " of " + cards.length + " kept " + gallery.called + " (the test had " + gallery.total + ")";
    }

    // All maps of an image; attention of one method, whose latents share a scale
    function enlarge(item) {
      const by = method(), numbers = gallery.maps.map((_, index) => index);
      const some = numbers.filter((index) => gallery.maps[index].method === null || gallery.maps[index].method === by);
      const latents = some.filter((index) => gallery.maps[index].method !== null && drawn(index)).map((index) => gallery.maps[index]);
      let low = Math.min(0, ...latents.map((one) => one.low)), high = latents.length ? Math.max(...latents.map((one) => one.high)) : 1;
      if (isSigned(low, high)) [low, high] = [-Math.max(high, -low), Math.max(high, -low)];
      byId("large-title").textContent = describe(item);
      byId("large-note").textContent = "Each score map has the scale below it" + (latents.length
        ? "; maps of attention, by " + by + ", share the scale " + number(low) + " to " + number(high) : "") + ". Scales are the same for all images.";
      byId("large-bar-row").hidden = !latents.length;
      if (latents.length) painter.bar(byId("large-bar"), latents[0], [low, high]);
      [byId("large-bar-low").textContent, byId("large-bar-high").textContent] = [number(low), number(high)];
      const views = [["plain", "image"], ...(item.decoded ? [["decoded", "reconstruction"]] : []), ...some.map((index) => [index, gallery.maps[index].title])];
      byId("large-maps").replaceChildren(...views.map(([map, title]) => {
        const figure = element("figure"), canvas = element("canvas", undefined, "view"), entry = gallery.maps[map];
        painter.paint(canvas, item, map, null, entry && entry.method !== null ? [low, high] : null);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", title + " of " + item.name);
        figure.append(canvas, element("figcaption", title));
        if (entry && entry.method === null) {
          const row = element("div", undefined, "bar small"), colours = element("canvas");
          painter.bar(colours, entry);
          row.append(element("span", number(entry.low)), colours, element("span", number(entry.high)));
          figure.append(row);
        }
        return figure;
      }));
      byId("large").showModal();
      byId("large").scrollTop = 0;
    }

    for (const id of ["map", "method", "opacity", "outline", "paint"]) if (byId(id)) byId(id).addEventListener("input", draw);
    for (const id of ["order", "show"]) byId(id).addEventListener("input", order);
    byId("opacity").addEventListener("input", () => { byId("opacity-value").textContent = byId("opacity").value + " %"; });
    byId("large-close").addEventListener("click", () => byId("large").close());
    if (byId("failure-cards")) byId("failure-cards").replaceChildren(...failures.map((one) => {
      one.line.append(element("p", one.item.failure.why));
      return one.line;
    }));
    redraw = () => { draw(); order(); };
    paintPixels = () => {
      if (byId("paint")) byId("paint").checked = true;
      byId("map").value = String(gallery.maps.findIndex((entry) => entry.threshold));
      redraw();
    };
    redraw();
  }

  if (gallery && typeof DecompressionStream === "undefined") {
    byId("count").textContent = "The gallery needs a browser of 2023 or newer; all tables and curves do not.";
  } else if (gallery) await show();
  document.documentElement.dataset.ready = "true";
})();
