// Images of examples: on sheets and under the pointer.

const MAX_CARDS = 12; // of a sheet

function imageSource(row, album = albums.examples) {
  const { suffix, folder } = album;
  if (row in album.embedded) return `data:image/${suffix === "png" ? "png" : "jpeg"};base64,${album.embedded[row]}`;
  return folder && !album.unreadable.has(row) ? `${folder}/${Math.floor(row / 1000)}/${row}.${suffix}` : "";
}

function placeholder(row, album) {
  const why = album.unreadable.has(row) ? "cannot be read" : "not in this page";
  return make("span", { class: "thumb blank", role: "img", "aria-label": `Picture ${why}` }, why);
}

// original: whether in its own size, where there is a server; else the thumbnail.
function imageOf(row, alt = "", { album = albums.examples, original = false } = {}) {
  const src = original && header.served ? `${album.originals}/${row}` : imageSource(row, album);
  if (!src) return placeholder(row, album);
  const image = make("img", { class: "thumb", alt, src });
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) <= 40) image.classList.add("small-pixels");
  });
  image.addEventListener("error", () => image.replaceWith(placeholder(row, album))); // the folder is missing
  return image;
}

// Whether the network, or the consensus, gives another class than the label.
const isMismatch = (row) => columns.get("right")?.values[row] === 0;

function captionOf(row) {
  const seen = columns.get("prediction") ?? columns.get("consensus");
  const label = columns.get("label");
  const depth = columns.get(header.depth);
  const lines = [];
  if (label) lines.push(`label ${displayText(label, row)}`);
  if (seen && (!label || isMismatch(row))) lines.push(`seen as ${displayText(seen, row) || "unknown"}`);
  const depthText = displayText(depth, row);
  if (header.facts.sides) return [...lines, `${displayText(columns.get("first_depth"), row)} to ${depthText} %`];
  const word = header.depth === "depth" ? "depth" : "held out";
  lines.push(depthText === "undefined" ? depthText : `${word} ${depthText || "never"}`);
  return lines;
}

function card(row, more) {
  const lines = captionOf(row);
  if (more) lines.push(`${more[1]} ${displayText(columns.get(more[0]), row)}`);
  const button = make("button", { type: "button", class: isMismatch(row) ? "card mismatch" : "card" });
  if (hasImages) button.append(imageOf(row));
  else button.append(make("b", {}, exampleName(row)), make("br"));
  if (!hasImages) button.classList.add("text");
  lines.forEach((line) => {
    const mismatch = line.startsWith("seen as") && isMismatch(row);
    button.append(make("span", mismatch ? { class: "mismatch-word" } : {}, line), make("br"));
  });
  button.setAttribute("aria-label", `${exampleName(row)}: ${lines.join(", ")}`);
  button.addEventListener("click", () => openExample(row));
  return button;
}

// The first `count` rows in an order, without sorting all of them.
function firstRows(rows, count, before) {
  const result = [];
  for (const row of rows) {
    if (result.length === count && !before(row, result[count - 1])) continue;
    let at = result.length;
    while (at && before(row, result[at - 1])) at--;
    result.splice(at, 0, row);
    if (result.length > count) result.pop();
  }
  return result;
}

let sheetRows = null; // the rows that the sheets show

// Of equal examples those come first whose neighbours have images in the page, then those that have one.
const explained = new Set(header.neighbors?.explained);
const shownOf = (row) => Number(row in embedded) + Number(explained.has(row));

function drawSheets(rows) {
  if (sheetRows === rows) return;
  sheetRows = rows;
  document.querySelectorAll(".sheet").forEach((section, index) => {
    const { where, by, more } = header.sheets[index];
    const within = where.map(([name, least, most]) => [columns.get(name).values, least, most]);
    const keys = by.map(([name, sign]) => [columns.get(name).values, sign]);
    const kept = rows.filter((row) =>
      within.every(([values, least, most]) => values[row] >= least && values[row] <= most),
    );
    const best = firstRows(kept, MAX_CARDS, (a, b) => {
      for (const [values, sign] of keys) {
        if (values[a] !== values[b]) return sign * (values[a] - values[b]) < 0;
      }
      if (shownOf(a) !== shownOf(b)) return shownOf(a) > shownOf(b);
      return jitter(a, 2) < jitter(b, 2);
    });
    const prefix = kept.length > MAX_CARDS ? "the first of " : "";
    section.querySelector("h3 span").textContent = prefix + number(kept.length);
    const items = best.map((row) => make("li", {}, card(row, more)));
    if (!items.length) items.push(make("li", { class: "none" }, "No example of this kind."));
    section.querySelector("ul").replaceChildren(...items);
  });
}

// What is under the pointer.

function showHover(event, rows, lines) {
  const box = byId("hover");
  box.replaceChildren();
  if (hasImages && rows.length === 1) box.append(imageOf(rows[0]));
  lines.filter(Boolean).forEach((line) => box.append(make("p", {}, line)));
  if (hasImages && rows.length > 1) {
    const sample = firstRows(rows, 5, (a, b) => Number(a in embedded) > Number(b in embedded));
    box.append(make("div", { class: "row" }, ...sample.map((row) => imageOf(row))));
  }
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const x = event.clientX + 18;
  const left = x + width > innerWidth - 8 ? event.clientX - width - 18 : x;
  const top = Math.min(event.clientY + 14, innerHeight - height - 8);
  Object.assign(box.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
}
