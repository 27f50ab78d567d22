// The way of one example through the network: its probes' votes, and the neighbours that cast them.

const targetOf = (row) => (columns.get("reference") ?? columns.get("prediction")).values[row];
const votingProbes = () => header.probes.filter((probe) => columns.has(`vote_${probe}`));
const voteOf = (row, probe) => columns.get(`vote_${probe}`).values[row];
const isKnown = (code) => code < header.classes.length;
const className = (code) => header.classes[code]?.name ?? "unknown";

// Colours of classes for one example: what votes are compared with, its label, and the most frequent.
function shadesOf(row) {
  const shades = new Map([[targetOf(row), "good"]]);
  const label = columns.get("label")?.values[row];
  if (label !== undefined && !shades.has(label)) shades.set(label, "bad");
  const times = new Map();
  for (const probe of votingProbes()) {
    const vote = voteOf(row, probe);
    if (isKnown(vote) && !shades.has(vote)) times.set(vote, (times.get(vote) ?? 0) + 1);
  }
  const others = [...times.keys()].sort((a, b) => times.get(b) - times.get(a) || a - b);
  ["mid", "fourth", "fifth", "sixth"].forEach((shade, i) => i in others && shades.set(others[i], shade));
  return (code) => `var(--${shades.get(code) ?? "faint"})`;
}

// A bar for each probe: the colour is its vote's, the height how far that is before the second.
function stripOf(row, shade) {
  const depth = columns.get("undefined").values[row] ? -1 : columns.get("depth").values[row];
  const words = [];
  const steps = votingProbes().map((probe, at) => {
    const [vote, margin] = [voteOf(row, probe), columns.get(`margin_${probe}`)?.values[row]];
    const known = isKnown(vote);
    const height = !known ? 0 : margin === undefined ? 1 : Math.max(0.04, margin / header.facts.margin);
    const name = known ? className(vote) : "";
    words.push(`${probe}: ${known ? name : "unknown"}${known && margin !== undefined ? `, margin ${+margin.toFixed(2)}` : ""}`);
    return make("span", { class: at === depth ? "step settles" : "step", title: words.at(-1) },
      make("span", { class: "bar" }, make("i", { style: `height:${100 * height}%;background:${shade(vote)}` })),
      make("b", {}, name || "–"), make("span", {}, probe));
  });
  return make("div", { class: "strip", role: "img", tabindex: 0, "aria-label": `Votes by probe: ${words.join("; ")}` }, ...steps);
}

const hasMargins = () => votingProbes().some((probe) => columns.has(`margin_${probe}`));

function stripCaption() {
  const height = hasMargins() ? " The higher a bar, the further its vote is before the second class." : "";
  return make("p", { class: "aside" }, `From left to right, what the neighbours at each probe vote for; blue is what votes are compared with.${height}`);
}

// Neighbours: in the page packed for all examples or some, on a server asked for one by one.

const near = header.neighbors;
let neighborPart, supportPart; // what is unpacked, or will be

async function readNeighbors() {
  const buffer = await unpack("neighbors");
  const some = near.examples === null ? null : new Uint32Array(buffer, 0, near.examples);
  const places = some && new Map(Array.from(some, (row, place) => [row, place]));
  const packed = new types[near.type](buffer.slice(some ? 4 * some.length : 0));
  const width = votingProbes().length * near.nearest;
  return (row) => {
    const place = places ? places.get(row) : row;
    return place === undefined ? null : packed.subarray(place * width, (place + 1) * width);
  };
}

async function readSupport() {
  const buffer = await unpack("support");
  const codes = new Uint32Array(buffer, 0, near.support);
  const numbers = near.numbered && new Float64Array(buffer.slice(8 * Math.ceil(near.support / 2)));
  return {
    classOf: (row) => near.classes[codes[row]],
    nameOf: (row) => (near.own ? exampleName(row) : `Support row ${numbers ? numbers[row] : row}`),
  };
}

// Once, unless it fails: then it is asked for again.
function support() {
  supportPart ??= readSupport().catch((error) => {
    supportPart = undefined;
    throw error;
  });
  return supportPart;
}

// By probe a list of support rows, the nearest first, with distances from a server; null: not in the page.
async function neighborsOf(row) {
  if (header.served) {
    const { rows, distances } = await (await ask(`neighbors/${row}`)).json();
    return rows.map((of, probe) => of.map((to, rank) => ({ row: to, distance: distances[probe][rank] })))
      .map((of) => of.filter((each) => each.row < near.support));
  }
  const packed = (await (neighborPart ??= readNeighbors()))(row);
  if (!packed) return null;
  return votingProbes().map((_, probe) =>
    Array.from(packed.subarray(probe * near.nearest, (probe + 1) * near.nearest), (to) => ({ row: to }))
      .filter((each) => each.row < near.support));
}

function neighborButton({ row, distance }, { classOf, nameOf }, target, shade) {
  const code = classOf(row);
  const agrees = code === target;
  const album = near.own ? albums.examples : albums.support;
  const shown = album && imageSource(row, album);
  const button = make("button", { type: "button", class: agrees ? "near agrees" : "near", style: `--frame:${shade(code)}` },
    shown ? imageOf(row, "", { album }) : make("span", { class: "thumb blank" }, nameOf(row).replace(/^.* /, "#")),
    make("span", {}, className(code)));
  const far = distance == null ? "" : `, distance ${+distance.toPrecision(4)}`;
  button.title = `${nameOf(row)}: ${className(code)}${far}, ${agrees ? "agrees" : "disagrees"}`;
  button.setAttribute("aria-label", button.title);
  button.addEventListener("click", () => openCard({ row, ofSupport: !near.own }, true));
  return button;
}

// Votes as a table, a line a probe; neighbours come a moment later.
function votesOf(row, shade) {
  const table = make("table", { class: "votes" }, make("caption", {}, "What the neighbours at each probe vote for"));
  const body = make("tbody");
  const predicted = columns.get("prediction").values[row];
  const label = columns.get("label")?.values[row];
  const cells = votingProbes().map((probe) => {
    const vote = voteOf(row, probe);
    const same = [];
    if (vote === predicted) same.push("✓ the network's class");
    if (vote === label) same.push("✓ the label");
    const cell = make("td", { class: "nearest" });
    body.append(
      make("tr", {}, make("th", { scope: "row" }, probe),
        make("td", {}, isKnown(vote) ? make("i", { class: "swatch", style: `background:${shade(vote)}` }) : "", className(vote)),
        make("td", { class: "same" }, same.join(", ")), ...(near ? [cell] : [])),
    );
    return cell;
  });
  const names = ["Probe", "Vote", "Same as", ...(near ? ["Nearest, framed by class"] : [])];
  table.append(make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { scope: "col" }, text)))), body);
  if (near) fillNeighbors(row, cells, shade);
  return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Votes of all probes" }, table);
}

async function fillNeighbors(row, cells, shade) {
  try {
    const [of, names] = await Promise.all([neighborsOf(row), support()]);
    const why = of ? "not searched" : "in pdepth view alone";
    cells.forEach((cell, probe) => {
      const buttons = (of?.[probe] ?? []).map((each) => neighborButton(each, names, targetOf(row), shade));
      cell.replaceChildren(...(buttons.length ? buttons : [why]));
    });
  } catch (error) {
    cells.forEach((cell) => cell.replaceChildren(`cannot be read (${error.message})`));
  }
}
