// Images of examples: on sheets, under the pointer, and in the dialog of one example.

const MAX_CARDS = 12; // of a sheet

function imageSource(row) {
  const { suffix, folder } = header.thumbnails;
  if (row in embedded) return `data:image/${suffix === "png" ? "png" : "jpeg"};base64,${embedded[row]}`;
  return folder && !unreadable.has(row) ? `${folder}/${Math.floor(row / 1000)}/${row}.${suffix}` : "";
}

function placeholder(row) {
  const why = unreadable.has(row) ? "cannot be read" : "not in this page";
  return make("span", { class: "thumb blank", role: "img", "aria-label": `Picture ${why}` }, why);
}

// src: of the picture in its own size, where there is a server; else the thumbnail's.
function imageOf(row, alt = "", src = imageSource(row)) {
  if (!src) return placeholder(row);
  const image = make("img", { class: "thumb", alt, src });
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) <= 40) image.classList.add("small-pixels");
  });
  image.addEventListener("error", () => image.replaceWith(placeholder(row))); // the folder is missing
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
      if (a in embedded !== b in embedded) return a in embedded; // equal ones: those with an image first
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

// One example.

function openExample(row) {
  const dialog = byId("detail");
  const at = tableOrder.indexOf(row);
  const button = (text, to) => {
    const element = make("button", { type: "button" }, text);
    if (to === undefined) element.disabled = true;
    else element.addEventListener("click", () => openExample(to));
    return element;
  };
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const bar = make("div", { class: "bar" }, make("h2", { id: "detail-title" }, exampleName(row)));
  bar.append(button("Previous", at > 0 ? tableOrder[at - 1] : undefined));
  bar.append(button("Next", at >= 0 ? tableOrder[at + 1] : undefined), close);
  const facts = make("dl", { class: "facts" });
  for (const column of columns.values()) {
    if (!column.title) continue;
    facts.append(make("dt", {}, column.title), make("dd", {}, displayText(column, row) || "–"));
  }
  if (settlesAt(row)) facts.append(make("dt", {}, "Settles at"), make("dd", {}, settlesAt(row)));
  const body = make("div", { class: "body" });
  const original = header.thumbnails.originals ? `images/${row}` : undefined;
  if (hasImages) body.append(imageOf(row, captionOf(row).join(", "), original));
  body.append(facts);
  if (columns.has("depth")) body.append(votesOf(row));
  dialog.replaceChildren(bar, body);
  if (!dialog.open) dialog.showModal();
}

function votesOf(row) {
  const table = make("table", {}, make("caption", {}, "What the neighbours at each probe vote for"));
  const body = make("tbody");
  const predicted = columns.get("prediction").values[row];
  const label = columns.get("label")?.values[row];
  header.probes.forEach((probe) => {
    const column = columns.get(`vote_${probe}`);
    if (!column) return;
    const vote = column.values[row];
    const same = [];
    if (vote === predicted) same.push("✓ the network's class");
    if (vote === label) same.push("✓ the label");
    body.append(
      make("tr", {}, make("th", { scope: "row" }, probe),
        make("td", {}, nameOf(column, vote) || "unknown"), make("td", {}, same.join(", "))),
    );
  });
  const head = ["Probe", "Vote", "Same as"].map((text) => make("th", { scope: "col" }, text));
  table.append(make("thead", {}, make("tr", {}, ...head)), body);
  return make("div", { class: "wide" }, table);
}
