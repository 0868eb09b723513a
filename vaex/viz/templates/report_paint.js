"use strict";
// Unpacks the images and maps of the gallery and paints them. Text is only ever set as text, never as markup.
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const byId = (id) => document.getElementById(id);
const ORANGE = [230, 159, 0]; // what exceeds the pixel threshold
const paled = (grey) => 31 + 0.73 * grey; // black and white of an image under a map, as in all other pictures
const isSigned = (low, high) => low < 0 && high > 0;

async function unpacked(gallery) {
  const stream = new Blob([bytes(gallery.packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const block = new Uint8Array(await new Response(stream).arrayBuffer());
  const part = (name, index) => {
    const { start, size } = gallery.parts[name] || {};
    return size === undefined ? null : block.subarray(start + index * size, start + (index + 1) * size);
  };
  return gallery.items.map((item, index) => ({
    ...item,
    pixels: part("image", index),
    truth: part("mask", index),
    decoded: part("reconstruction", index),
    levels: part("levels", index),
    values: gallery.maps.map((_, number) => part("map" + number, index)),
  }));
}

function painterOf(gallery, colours) {
  const tables = Object.fromEntries(Object.entries(colours).map(([name, text]) => [name, bytes(text)]));
  const [rows, columns] = gallery.map_size, [height, width] = gallery.image_size;
  const canvasOf = (w, h) => Object.assign(document.createElement("canvas"), { width: w, height: h });
  const tableOf = (entry, low, high) => (isSigned(low, high) ? tables.diverging : entry.method === null ? tables.score : tables.attention);
  const scratch = canvasOf(columns, rows), brush = scratch.getContext("2d");
  const plate = canvasOf(width, height), under = plate.getContext("2d");
  const factor = Math.max(1, Math.round(320 / width)); // small images are drawn larger, so that outlines stay thin
  const opacity = () => Number(byId("opacity").value) / 100;

  // The map as colours of its own size; range: another low and high end than its own
  function coloured(item, map, range) {
    const entry = gallery.maps[map], values = item.values[map], picture = brush.createImageData(columns, rows);
    const [low, high] = range || [entry.low, entry.high], signed = isSigned(low, high), table = tableOf(entry, low, high);
    const share = Array.from({ length: 256 }, (_, value) => {
      const real = entry.low + (value / 255) * (entry.high - entry.low);
      return Math.min(255, Math.max(0, Math.round((255 * (real - low)) / (high - low))));
    });
    for (let i = 0; i < values.length; i++) {
      const value = range ? share[values[i]] : values[i];
      const level = signed ? Math.abs(value - 127.5) / 127.5 : value / 255;
      picture.data.set([table[3 * value], table[3 * value + 1], table[3 * value + 2], 255 * opacity() * Math.sqrt(level)], 4 * i);
    }
    brush.putImageData(picture, 0, 0);
    return scratch;
  }

  function exceeding(item, cut) {
    const picture = brush.createImageData(columns, rows);
    for (let i = 0; i < item.levels.length; i++) if (item.levels[i] > cut) picture.data.set([...ORANGE, 255 * opacity()], 4 * i);
    brush.putImageData(picture, 0, 0);
    return scratch;
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

  // map: its number, "plain" or "decoded"; cut: position of the pixel threshold above which it is painted, or null
  function paint(canvas, item, map, cut = null, range = null) {
    canvas.width = width * factor;
    canvas.height = height * factor;
    const context = canvas.getContext("2d"), picture = under.createImageData(width, height);
    const source = map === "decoded" ? item.decoded : item.pixels, plain = typeof map === "string";
    for (let i = 0; i < width * height; i++) {
      let [red, green, blue] = [source[3 * i], source[3 * i + 1], source[3 * i + 2]];
      if (!plain) red = green = blue = paled(0.299 * red + 0.587 * green + 0.114 * blue);
      picture.data.set([red, green, blue, 255], 4 * i);
    }
    under.putImageData(picture, 0, 0);
    context.drawImage(plate, 0, 0, canvas.width, canvas.height);
    if (!plain) {
      context.imageSmoothingEnabled = cut === null;
      context.drawImage(cut === null ? coloured(item, map, range) : exceeding(item, cut), 0, 0, canvas.width, canvas.height);
    }
    if (item.truth && byId("outline") && byId("outline").checked) outline(context, item.truth);
  }

  // The colours as they lie over a grey pixel; range: another low and high end than the map's own
  function bar(canvas, entry, range = null, painted = false) {
    const [low, high] = range || [entry.low, entry.high], signed = isSigned(low, high), table = tableOf(entry, low, high);
    const context = canvas.getContext("2d");
    canvas.width = 256;
    canvas.height = 1;
    const picture = context.createImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      const share = painted ? opacity() : opacity() * Math.sqrt(signed ? Math.abs(i - 127.5) / 127.5 : i / 255);
      const over = (colour) => share * colour + (1 - share) * paled(127.5);
      picture.data.set([...(painted ? ORANGE : table.subarray(3 * i, 3 * i + 3))].map(over).concat(255), 4 * i);
    }
    context.putImageData(picture, 0, 0);
  }

  return { paint, bar };
}
