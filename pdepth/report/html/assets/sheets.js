// ---- Pictures of examples: on sheets, where one points at, and of one example ----

const SHOWN = 12;

function source(row) {
  const { suffix, folder } = header.thumbnails;
  if (row in embedded) return `data:image/${suffix === "png" ? "png" : "jpeg"};base64,${embedded[row]}`;
  return folder && !unreadable.has(row) ? `${folder}/${Math.floor(row / 1000)}/${row}.${suffix}` : "";
}

function blank(row) {
  const why = unreadable.has(row) ? "cannot be read" : "not in this page";
  return make("span", { class: "thumb blank", role: "img", "aria-label": `Picture ${why}` }, why);
}

function picture(row, alt = "") {
  const src = source(row);
  if (!src) return blank(row);
  const image = make("img", { class: "thumb", alt, src });
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) <= 40) image.classList.add("small-pixels");
  });
  image.addEventListener("error", () => image.replaceWith(blank(row))); // the folder is not there
  return image;
}

// Whether the network, or the consensus, gives another class than the label.
const isOdd = (row) => columns.get("right")?.values[row] === 0;

function captionOf(row) {
  const seen = columns.get("prediction") ?? columns.get("consensus");
  const label = columns.get("label");
  const depth = columns.get(header.depth);
  const lines = [];
  if (label) lines.push(`label ${shown(label, row)}`);
  if (!label || isOdd(row)) lines.push(`seen as ${shown(seen, row) || "unknown"}`);
  const said = shown(depth, row);
  const word = header.depth === "depth" ? "depth" : "held out";
  lines.push(said === "undefined" ? said : `${word} ${said || "never"}`);
  return lines;
}

function card(row, more) {
  const lines = captionOf(row);
  if (more) lines.push(`${more[1]} ${shown(columns.get(more[0]), row)}`);
  const button = make("button", { type: "button", class: isOdd(row) ? "card odd" : "card" });
  if (pictured) button.append(picture(row));
  else button.append(make("b", {}, called(row)), make("br"));
  if (!pictured) button.classList.add("text");
  lines.forEach((line) => {
    const odd = line.startsWith("seen as") && isOdd(row);
    button.append(make("span", odd ? { class: "odd-word" } : {}, line), make("br"));
  });
  button.setAttribute("aria-label", `${called(row)}: ${lines.join(", ")}`);
  button.addEventListener("click", () => openExample(row));
  return button;
}

// The first of some rows in an order, without sorting them all.
function first(rows, many, before) {
  const found = [];
  for (const row of rows) {
    if (found.length === many && !before(row, found[many - 1])) continue;
    let at = found.length;
    while (at && before(row, found[at - 1])) at--;
    found.splice(at, 0, row);
    if (found.length > many) found.pop();
  }
  return found;
}

let sheetsOf = null; // the rows that the sheets are of

function drawSheets(rows) {
  if (sheetsOf === rows) return;
  sheetsOf = rows;
  document.querySelectorAll(".sheet").forEach((section, number_) => {
    const { where, by, more } = header.sheets[number_];
    const within = where.map(([name, least, most]) => [columns.get(name).values, least, most]);
    const keys = by.map(([name, sign]) => [columns.get(name).values, sign]);
    const kept = rows.filter((row) =>
      within.every(([values, least, most]) => values[row] >= least && values[row] <= most),
    );
    const best = first(kept, SHOWN, (a, b) => {
      for (const [values, sign] of keys) {
        if (values[a] !== values[b]) return sign * (values[a] - values[b]) < 0;
      }
      if (a in embedded !== b in embedded) return a in embedded; // of equals, those to be seen
      return scatter(a, 2) < scatter(b, 2);
    });
    const some = kept.length > SHOWN ? "the first of " : "";
    section.querySelector("h3 span").textContent = some + number(kept.length);
    const items = best.map((row) => make("li", {}, card(row, more)));
    if (!items.length) items.push(make("li", { class: "none" }, "No example of this kind."));
    section.querySelector("ul").replaceChildren(...items);
  });
}

// ---- Where one points at ----

function hover(event, rows, lines) {
  const box = byId("hover");
  box.replaceChildren();
  if (pictured && rows.length === 1) box.append(picture(rows[0]));
  lines.filter(Boolean).forEach((line) => box.append(make("p", {}, line)));
  if (pictured && rows.length > 1) {
    const some = first(rows, 5, (a, b) => Number(a in embedded) > Number(b in embedded));
    box.append(make("div", { class: "row" }, ...some.map((row) => picture(row))));
  }
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const x = event.clientX + 18;
  const left = x + width > innerWidth - 8 ? event.clientX - width - 18 : x;
  const top = Math.min(event.clientY + 14, innerHeight - height - 8);
  Object.assign(box.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
}

// ---- One example ----

function openExample(row) {
  const dialog = byId("detail");
  const at = tableOrder.indexOf(row);
  const button = (text, to) => {
    const each = make("button", { type: "button" }, text);
    if (to === undefined) each.disabled = true;
    else each.addEventListener("click", () => openExample(to));
    return each;
  };
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const bar = make("div", { class: "bar" }, make("h2", { id: "detail-title" }, called(row)));
  bar.append(button("Previous", at > 0 ? tableOrder[at - 1] : undefined));
  bar.append(button("Next", at >= 0 ? tableOrder[at + 1] : undefined), close);
  const facts = make("dl", { class: "facts" });
  for (const column of columns.values()) {
    if (!column.title) continue;
    facts.append(make("dt", {}, column.title), make("dd", {}, shown(column, row) || "–"));
  }
  if (settlesAt(row)) facts.append(make("dt", {}, "Settles at"), make("dd", {}, settlesAt(row)));
  const body = make("div", { class: "body" });
  if (pictured) body.append(picture(row, captionOf(row).join(", ")));
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
        make("td", {}, nameOf(column, vote) || "not asked"), make("td", {}, same.join(", "))),
    );
  });
  const head = ["Probe", "Vote", "Same as"].map((text) => make("th", { scope: "col" }, text));
  table.append(make("thead", {}, make("tr", {}, ...head)), body);
  return make("div", { class: "wide" }, table);
}
