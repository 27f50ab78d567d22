// What somebody decides of examples: kept in the browser, undone, and saved as a file for pdepth.

const DECISIONS = ["", "keep", "relabel", "drop"];
const KEYS = { k: "keep", r: "relabel", d: "drop" };
const past = []; // by action, what its examples had before: [row, decision, label]

const canDecide = () => columns.has("decision");
// Of data without checksums, under those of this page: another's of as many rows may be of other data.
const storageKey = () => `pdepth-decisions ${JSON.stringify(header.run)}${header.of ? ` ${header.of}` : ""}`;

// Two columns more, behind the first: of the table, the filter and the CSV file.
function addDecisionColumns() {
  if (!header.run) return;
  const missing = header.classes.length;
  const more = [
    { name: "decision", title: "Decision", kind: "choice", choices: DECISIONS, digits: 0, live: true, values: new Uint8Array(header.count) },
    { name: "new_label", title: "New label", kind: "class", choices: [], digits: 0, values: new Uint32Array(header.count).fill(missing) },
  ];
  const [first, ...others] = columns.values();
  columns.clear();
  for (const column of [first, ...more, ...others]) columns.set(column.name, column);
  header.columns.push(...more);
  header.selects.push(["decision", "Decision"]);
}

// The label that fits best, as far as it is known; undefined where none but the example's own is.
function suggestedLabel(row) {
  const label = columns.get("label")?.values[row];
  const candidates = ["suggested_label", "rival", "prediction"].map((name) => columns.get(name)?.values[row]);
  return candidates.find((code) => code !== undefined && code !== label && isKnown(code));
}

// changes: [row, decision, label], of which those are left out that change nothing.
function change(changes) {
  const [decision, label] = [columns.get("decision").values, columns.get("new_label").values];
  const before = [];
  for (const [row, kind, code] of changes) {
    if (decision[row] === kind && label[row] === code) continue;
    before.push([row, decision[row], label[row]]);
    [decision[row], label[row]] = [kind, code];
  }
  if (before.length) past.push(before);
  showDecisions();
}

// label: the new class of "relabel", or the suggested one; examples that have none are left as they are.
function decide(rows, kind, label) {
  const missing = header.classes.length;
  const changes = Array.from(rows, (row) => [row, DECISIONS.indexOf(kind), kind === "relabel" ? (label ?? suggestedLabel(row)) : missing]);
  change(changes.filter(([, , code]) => code !== undefined));
}

function undo() {
  const before = past.pop();
  if (!before) return;
  change(before.reverse());
  past.pop(); // the undoing itself
}

function showDecisions() {
  const kinds = columns.get("decision").values;
  const counts = DECISIONS.map(() => 0);
  for (const kind of kinds) counts[kind]++;
  byId("decision-count").textContent = DECISIONS.slice(1).map((kind, i) => `${number(counts[i + 1])} ${kind}`).join(", ");
  byId("decision-undo").disabled = !past.length;
  for (const id of ["decision-save", "decision-clear"]) byId(id).disabled = counts[0] === header.count;
  keepDecisions();
  if (filter.codes.has("decision")) update();
  else drawRows();
  redrawMap();
  if (byId("detail").open) showCard(openedCard);
}

const decided = () => placesOf(columns.get("decision").values);

function decisionsFile() {
  const [kinds, labels, given] = ["decision", "new_label", "label"].map((name) => columns.get(name)?.values);
  const decisions = decided().map((row) => {
    const entry = { row: idColumn().values[row], decision: DECISIONS[kinds[row]] };
    if (entry.decision === "relabel") {
      entry.label = Number(header.classes[labels[row]].value);
      if (header.named) entry.class = header.classes[labels[row]].name;
    }
    return given ? { ...entry, given: Number(header.classes[given[row]].value) } : entry;
  });
  return { format: "pdepth-decisions", version: 1, run: header.run, decisions };
}

// Throws an Error for a file of other rows, or another file.
function readDecisions(content) {
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  if (content?.format !== "pdepth-decisions" || content.version !== 1) throw new Error("expected decisions that pdepth wrote, got another file");
  if (!same(content.run, header.run)) throw new Error("expected decisions of this run's data, got those of other data");
  const places = new Map(Array.from(idColumn().values, (row, place) => [row, place]));
  const codes = new Map(header.classes.map(({ value }, code) => [Number(value), code]));
  change(content.decisions.map(({ row, decision, label }) => {
    const code = decision === "relabel" ? codes.get(label) : header.classes.length;
    if (!places.has(row) || DECISIONS.indexOf(decision) < 1 || code === undefined) throw new Error(`expected a decision of this page's rows and classes, got another of row ${row}`);
    return [places.get(row), DECISIONS.indexOf(decision), code];
  }));
}

let canKeep = true; // false where the browser has decisions that this page cannot show

// In the browser, as the file would have them, until they are cleared.
function keepDecisions() {
  if (!canKeep) return;
  try {
    if (decided().length) localStorage.setItem(storageKey(), JSON.stringify(decisionsFile()));
    else localStorage.removeItem(storageKey());
    byId("decision-note").textContent = "";
  } catch {
    byId("decision-note").textContent = "This browser does not keep them: download them before the page is closed.";
  }
}

// Those of another page of the same data may be of classes that this one lacks: they stay as they are.
function restoreDecisions() {
  let kept = null;
  try {
    kept = localStorage.getItem(storageKey());
  } catch { /* no storage: keepDecisions says so */ }
  try {
    if (kept) readDecisions(JSON.parse(kept));
  } catch (error) {
    canKeep = false;
    byId("decision-note").textContent = `This browser keeps decisions of these rows that do not fit this page (${error.message}), and leaves them as they are: download what you decide here.`;
  }
  past.length = 0;
}

// A letter, of the table's row or of the open card; returns whether it is one of these.
function decideByKey(event, row) {
  const key = event.key.toLowerCase();
  if (!canDecide() || event.altKey || (event.ctrlKey || event.metaKey) !== (key === "z")) return false;
  if (key === "u" || key === "z") undo();
  else if (key in KEYS) decide([row], KEYS[key]);
  else return false;
  return true;
}

// In the card of an example: what was decided, and what to decide.
function decisionOf(row) {
  const kind = DECISIONS[columns.get("decision").values[row]];
  const own = columns.get("new_label").values[row];
  const suggested = isKnown(own) ? own : suggestedLabel(row);
  const select = make("select", { "aria-label": "New label" });
  const label = columns.get("label")?.values[row];
  header.classes.forEach(({ name }, code) => code === label || select.append(option(code, name)));
  if (suggested !== undefined) select.value = suggested;
  select.addEventListener("change", () => decide([row], "relabel", Number(select.value)));
  const buttons = Object.entries(KEYS).map(([key, each]) => {
    const button = make("button", { type: "button", "aria-pressed": kind === each }, each[0].toUpperCase() + each.slice(1), " ", make("kbd", {}, key.toUpperCase()));
    button.addEventListener("click", () => decide([row], each, each === "relabel" ? Number(select.value) : undefined));
    return button;
  });
  const [keep, relabel, drop] = buttons;
  const tick = make("button", { type: "button", "aria-pressed": Boolean(chosen.rows[row]) }, "In the set ", make("kbd", {}, "S"));
  tick.addEventListener("click", () => toggleCard(row));
  return make("div", { class: "decide", role: "group", "aria-label": "Decision" }, keep, relabel, "as", select, drop, tick);
}

function toggleCard(row) {
  toggle(row);
  showCard(openedCard);
}

function buildDecisions() {
  byId("decisions").hidden = !canDecide();
  if (!canDecide()) return;
  for (const kind of DECISIONS.slice(1)) byId(`decision-${kind}`).addEventListener("click", () => decide(chosenRows(), kind));
  byId("decision-undo").addEventListener("click", undo);
  byId("decision-clear").addEventListener("click", () => change(decided().map((row) => [row, 0, header.classes.length])));
  byId("decision-save").addEventListener("click", () => save("decisions.json", new Blob([JSON.stringify(decisionsFile(), null, 1)], { type: "application/json" })));
  byId("decision-load").addEventListener("change", async ({ target }) => {
    try {
      readDecisions(JSON.parse(await target.files[0].text()));
      byId("decision-note").textContent = "";
    } catch (error) {
      byId("decision-note").textContent = `${target.files[0].name}: ${error.message}.`;
    }
    target.value = "";
  });
  restoreDecisions();
  showDecisions();
}
