// The map of embeddings: where examples lie at a probe, in two dimensions, with zoom and lasso.

const NEAR = 9; // pixels within which a dot is pointed at
const MAX_MAP_DOTS = 200000; // of more every so many is drawn
const map = { rows: new Uint32Array(0), probe: 0, x: null, y: null, places: new Map(), by: "depth", lasso: true, view: null, path: null };

// The places of all examples at a probe; NaN where one is absent.
async function readPlaces(probe) {
  const packed = new Uint16Array(await unpack(`map-${probe}`));
  const [x0, xStep, y0, yStep] = header.map.boxes[probe];
  const [x, y] = [new Float32Array(header.count), new Float32Array(header.count)];
  for (let row = 0; row < header.count; row++) {
    const absent = packed[2 * row] === header.map.absent;
    x[row] = absent ? NaN : x0 + xStep * packed[2 * row];
    y[row] = absent ? NaN : y0 + yStep * packed[2 * row + 1];
  }
  return { x, y };
}

async function showProbe(probe) {
  map.probe = probe;
  const name = header.probes[probe];
  if (!map.places.has(probe)) map.places.set(probe, readPlaces(probe));
  let places;
  try {
    places = await map.places.get(probe);
  } catch (error) {
    map.places.delete(probe); // so that it is asked for again
    byId("map-says").textContent = `${name} cannot be read (${error.message}); the dots are those of the probe before.`;
    return;
  }
  if (map.probe !== probe) return;
  const { x, y } = places;
  Object.assign(map, { x, y, view: null });
  const slider = byId("map-probe");
  slider.value = probe;
  slider.setAttribute("aria-valuetext", name);
  const absent = x.reduce((sum, value) => sum + Number.isNaN(value), 0);
  const explained = header.map.explained[probe].map((share) => share && `${(100 * share).toFixed(1)} %`);
  byId("map-says").textContent = [
    `${probe + 1} of ${header.map.boxes.length}: ${name}.`,
    explained[0] && `The axes have ${explained.join(" and ")} of the variance.`,
    absent && `${number(absent)} were not searched here, and are absent.`,
  ].filter(Boolean).join(" ");
  paintMap();
}

function mapSize() {
  const box = byId("map-dots").getBoundingClientRect();
  return { width: box.width, height: box.height };
}

// All dots in sight: how many pixels a unit is, and what is in the middle.
function wholeView() {
  const [xs, ys] = [rangeOf({ values: map.x }), rangeOf({ values: map.y })];
  const { width, height } = mapSize();
  const scale = 0.94 * Math.min(width / (xs[1] - xs[0] || 1), height / (ys[1] - ys[0] || 1));
  return { scale: Number.isFinite(scale) && scale > 0 ? scale : 1, x: (xs[0] + xs[1]) / 2 || 0, y: (ys[0] + ys[1]) / 2 || 0 };
}

const toScreen = ({ width, height }) => {
  const { scale, x, y } = map.view;
  return [(value) => (value - x) * scale + width / 2, (value) => height / 2 - (value - y) * scale];
};

// factor: of the scale; at: the place in the canvas that stays where it is.
function zoomBy(factor, at = null) {
  const { width, height } = mapSize();
  const [dx, dy] = at ? [at[0] - width / 2, height / 2 - at[1]] : [0, 0];
  const { scale, x, y } = map.view;
  const limited = Math.max(wholeView().scale / 2, Math.min(scale * factor, wholeView().scale * 1000));
  map.view = { scale: limited, x: x + dx / scale - dx / limited, y: y + dy / scale - dy / limited };
  paintMap();
}

function moveBy(dx, dy) {
  map.view = { ...map.view, x: map.view.x - dx / map.view.scale, y: map.view.y + dy / map.view.scale };
  paintMap();
}

function paintMap() {
  if (!map.x) return;
  map.view ??= wholeView();
  const canvas = byId("map-dots");
  const dpr = devicePixelRatio;
  const size = mapSize();
  [canvas.width, canvas.height] = [Math.round(size.width * dpr), Math.round(size.height * dpr)];
  if (!canvas.width || !canvas.height) return;
  const context = canvas.getContext("2d");
  const surface = rgbOf(colour("surface"));
  const image = pixelsOf(context, canvas.width, canvas.height, surface);
  const column = columns.get(map.by);
  const [shades, shadeOf] = [coloursOf(column, surface[0] < 128), shadesBy(column)];
  const radius = dpr * (map.rows.length > 20000 ? 1.3 : map.rows.length > 4000 ? 2 : 3);
  const [plain, wrong, around] = [disc(radius), cross(radius + dpr / 2, 1.1 * dpr), ring(radius + 2 * dpr, dpr)];
  const [screenX, screenY] = toScreen(size);
  const ink = rgbOf(colour("ink"));
  const step = Math.ceil(map.rows.length / MAX_MAP_DOTS);
  const right = values("right");
  const put = (i, opacity) => {
    const row = map.rows[i];
    if (Number.isNaN(map.x[row])) return;
    const x = Math.round(screenX(map.x[row]) * dpr), y = Math.round(screenY(map.y[row]) * dpr);
    putStamp(image, x, y, right && !right[row] ? wrong : plain, shades[shadeOf(row)], opacity);
    if (chosen.rows[row] && chosen.count < 2000) putStamp(image, x, y, around, ink, 0.9);
  };
  // What is chosen lies on top of the others.
  for (let i = 0; i < map.rows.length; i += step) if (!chosen.rows[map.rows[i]]) put(i, chosen.count ? 0.16 : 0.7);
  if (chosen.count) for (let i = 0; i < map.rows.length; i += step) if (chosen.rows[map.rows[i]]) put(i, 0.95);
  context.putImageData(image, 0, 0);
  paintPath();
}

function paintPath() {
  const canvas = byId("map-path");
  const dots = byId("map-dots");
  [canvas.width, canvas.height] = [dots.width, dots.height];
  if (!map.path) return;
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  context.strokeStyle = colour("accent");
  context.lineWidth = 2;
  context.setLineDash([5, 4]);
  context.beginPath();
  map.path.forEach(([x, y]) => context.lineTo(x, y));
  context.closePath();
  context.stroke();
}

// The rows on the map, among those that are filtered, whose places in the canvas pass a test.
function rowsWhere(test) {
  const [screenX, screenY] = toScreen(mapSize());
  return map.rows.filter((row) => !Number.isNaN(map.x[row]) && test(screenX(map.x[row]), screenY(map.y[row])));
}

function rowsInLasso(path) {
  const ends = [0, 1].map((axis) => path.map((at) => at[axis]));
  const [[left, right], [top, bottom]] = ends.map((of) => [Math.min(...of), Math.max(...of)]);
  return rowsWhere((x, y) => x >= left && x <= right && y >= top && y <= bottom && isInside(path, x, y));
}

function dotAt(x, y) {
  const [screenX, screenY] = toScreen(mapSize());
  let [nearest, least] = [undefined, NEAR * NEAR];
  for (const row of map.rows) {
    const distance = (screenX(map.x[row]) - x) ** 2 + (screenY(map.y[row]) - y) ** 2;
    if (distance <= least) [nearest, least] = [row, distance];
  }
  return nearest;
}

const howOf = (event) => (event.shiftKey ? "add" : event.altKey ? "remove" : "replace");

function listenToMap(canvas) {
  let from = null; // where the pointer was pressed
  let moved = 0;
  const at = ({ offsetX, offsetY }) => [offsetX, offsetY];
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !map.view) return;
    canvas.setPointerCapture(event.pointerId);
    [from, moved] = [at(event), 0];
    if (map.lasso) map.path = [from];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!map.view) return;
    const [x, y] = at(event);
    if (!from) return pointAt(event, dotAt(x, y));
    byId("hover").hidden = true;
    const far = Math.hypot(x - from[0], y - from[1]);
    if (map.lasso && far < 3) return;
    moved += far;
    if (map.lasso) {
      map.path.push([x, y]);
      paintPath();
    } else moveBy(x - from[0], y - from[1]);
    from = [x, y];
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [path, isClick] = [map.path, moved < 4];
    [map.path, from] = [null, null];
    const row = isClick ? dotAt(...at(event)) : undefined;
    if (row !== undefined) openExample(row);
    if (!isClick && path) choose(rowsInLasso(path), howOf(event));
    paintPath();
  });
  canvas.addEventListener("pointercancel", () => {
    [map.path, from] = [null, null];
    paintPath();
  });
  canvas.addEventListener("pointerleave", () => (byId("hover").hidden = true));
  canvas.addEventListener("wheel", (event) => {
    // The page scrolls on, unless the map has the focus.
    if (!map.view || !(event.ctrlKey || document.activeElement === canvas)) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / (event.deltaMode ? 12 : 400)), at(event));
  }, { passive: false });
  canvas.addEventListener("keydown", handleMapKey);
}

function pointAt(event, row) {
  if (row === undefined) byId("hover").hidden = true;
  else showHover(event, [row], describeExample(row));
}

function handleMapKey(event) {
  const does = {
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => showWhole(),
    ArrowLeft: () => moveBy(60, 0), ArrowRight: () => moveBy(-60, 0), ArrowUp: () => moveBy(0, 60), ArrowDown: () => moveBy(0, -60),
  }[event.key];
  if (!does || !map.view || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  does();
}

function showWhole() {
  map.view = null;
  paintMap();
}

function chooseInView(event) {
  const { width, height } = mapSize();
  choose(rowsWhere((x, y) => x >= 0 && y >= 0 && x <= width && y <= height), howOf(event));
}

function buildMapControls(figure) {
  const colours = [...columns.values()].filter((c) => c.title && c.kind !== "text" && c !== idColumn());
  const by = make("select", { id: "map-by" }, ...colours.map((c) => option(c.name, c.title)));
  by.value = map.by;
  by.addEventListener("change", () => {
    map.by = by.value;
    drawMap(map.rows);
  });
  const slider = make("input", { type: "range", id: "map-probe", min: 0, max: header.map.boxes.length - 1, step: 1 });
  slider.addEventListener("input", () => showProbe(Number(slider.value)));
  const button = (text, onClick, more = {}) => {
    const element = make("button", { type: "button", ...more }, text);
    element.addEventListener("click", onClick);
    return element;
  };
  const modes = [["Lasso", true], ["Move", false]].map(([text, isLasso]) =>
    button(text, () => {
      map.lasso = isLasso;
      modes.forEach((each) => each.setAttribute("aria-pressed", (each.textContent === "Lasso") === isLasso));
    }, { "aria-pressed": map.lasso === isLasso }));
  figure.querySelector("figcaption").append(
    make("div", { class: "tools" }, make("label", {}, "Probe", slider), make("span", { id: "map-says", role: "status" })),
    make("div", { class: "tools" }, make("label", {}, "Colour", by), ...modes,
      button("+", () => zoomBy(1.5), { "aria-label": "Zoom in" }), button("−", () => zoomBy(1 / 1.5), { "aria-label": "Zoom out" }),
      button("Whole map", showWhole), button("Choose what is in sight", chooseInView)),
    make("div", { class: "tools legend", id: "map-legend" }),
  );
}

function showLegend() {
  const column = columns.get(map.by);
  const shades = coloursOf(column, rgbOf(colour("surface"))[0] < 128).map((rgb) => `rgb(${rgb})`);
  const entries = [];
  if (isCoded(column)) {
    const names = column.kind === "choice" ? column.choices : header.classes.map(({ name }) => name);
    names.slice(0, 24).forEach((name, i) => entries.push(make("span", {}, make("i", { class: "swatch", style: `background:${shades[i]}` }), name || "none")));
    if (names.length > 24) entries.push(`and ${number(names.length - 24)} more`);
  } else {
    const ends = rangeOf(column).map((value) => (column.name === header.depth ? header.probes[value] ?? value : +value.toFixed(column.digits)));
    entries.push(ends[0], make("i", { class: "ramp", style: `background:linear-gradient(90deg, ${shades.join()})` }), ends[1]);
  }
  if (columns.has("right")) entries.push(make("span", { class: "aside" }, "× the network is wrong"));
  byId("map-legend").replaceChildren(...entries.map((each) => (each instanceof Node ? each : make("span", {}, String(each)))));
}

// Draw the map of some rows; the first time its canvas and its controls, too.
function drawMap(rows) {
  map.rows = rows;
  const figure = byId("map");
  const place = figure.querySelector(".plot");
  if (!byId("map-dots")) {
    place.setAttribute("role", "group");
    const label = "Map of the examples. Keys: plus and minus zoom, arrows move, 0 shows all.";
    const [dots, path] = [make("canvas", { id: "map-dots" }), make("canvas", { id: "map-path", tabindex: 0, role: "application", "aria-label": label })];
    place.replaceChildren(dots, path);
    buildMapControls(figure);
    listenToMap(path);
    new ResizeObserver(() => paintMap()).observe(place);
    showProbe(header.map.boxes.length - 1);
  }
  place.setAttribute("aria-label", `Map of ${number(rows.length)} examples`);
  showLegend();
  paintMap();
}

// After a change of the set.
function redrawMap() {
  if (!header.map) return;
  if (visibleViews.has("map")) paintMap();
  else drawnRows.delete("map");
}
