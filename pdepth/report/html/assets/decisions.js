// What somebody decides of examples: kept in the browser, undone, and saved as a file for pdepth.

const DECISIONS = ["", "keep", "relabel", "drop"];
const KEYS = { k: "keep", r: "relabel", d: "drop" };
const past = []; // by action, what its examples had before: [row, decision, label]

const canDecide = () => columns.has("decision");
// Of data without checksums, under those of this page: another's of as many rows may be of other data.
const storageKey = () => `pdepth-decisions ${JSON.stringify(header.run)}${header.of ? ` ${header.of}` : ""}`;

// Two columns more, behind the depth: of the table, the filter and the CSV file.
function addDecisionColumns() {
  if (!header.run) return;
  const missing = header.classes.length;
  const more = [
    { name: "decision", title: "Decision", kind: "choice", choices: DECISIONS, digits: 0, live: true, values: new Uint8Array(header.count) },
    { name: "new_label", title: "New label", kind: "class", choices: [], digits: 0, values: new Uint32Array(header.count).fill(missing) },
  ];
  const all = [...columns.values()];
  all.splice(all.findIndex(({ name }) => name === header.depth) + 1, 0, ...more);
  columns.clear();
  for (const column of all) columns.set(column.name, column);
  header.columns.push(...more);
  header.selects.push(["decision", "Decision"]);
}

// Another label in place of an example's own: that of a label issue; where labels have no scores, what
// half of the probes vote for, or else the network's class. undefined where nothing speaks for one.
function suggestedLabel(row) {
  const at = (name) => columns.get(name)?.values[row];
  const label = at("label");
  if (label === undefined) return undefined;
  const most = at("rival_votes") >= votingProbes().length / 2 ? at("rival") : undefined;
  const scored = columns.has("label_score");
  const candidates = scored ? (at("label_score") >= header.facts.threshold ? [at("suggested_label")] : []) : [most, at("prediction")];
  return candidates.find((code) => code !== undefined && code !== label && isKnown(code));
}

// Why none is suggested.
function whyNone() {
  if (!columns.has("label")) return "there are no labels";
  if (columns.has("label_score")) return `a label score below ${header.facts.threshold} means that the given label fits best`;
  return `the network gives the label${columns.has("rival") ? ", and no other class has the votes of half of the probes" : ""}`;
}

const said = make("p", { id: "said", role: "status" });

// Says something where it is seen, and read out, until the next key or click.
function say(text) {
  said.textContent = "";
  (byId("detail").open ? byId("detail") : document.body).append(said);
  said.textContent = text;
}

// changes: [row, decision, label], of which those are left out that change nothing. Other pages of the
// same data may have decided meanwhile: theirs are taken over first.
function change(changes) {
  takeKept();
  const [decision, label] = [columns.get("decision").values, columns.get("new_label").values];
  const done = [];
  for (const [row, kind, code] of changes) {
    if (decision[row] === kind && label[row] === code) continue;
    done.push({ row, before: [decision[row], label[row]], after: [kind, code] });
    [decision[row], label[row]] = [kind, code];
  }
  if (done.length) past.push(done);
  keepDecisions();
  showDecisions();
}

// label: the new class of "relabel", or the suggested one; examples that have none are left as they are.
function decide(rows, kind, label) {
  const missing = header.classes.length;
  const changes = Array.from(rows, (row) => [row, DECISIONS.indexOf(kind), kind === "relabel" ? (label ?? suggestedLabel(row)) : missing]);
  const possible = changes.filter(([, , code]) => code !== undefined);
  change(possible);
  const left = changes.length - possible.length;
  if (left) say(`No label is suggested for ${left === 1 ? "this example" : `${number(left)} of these examples`}: ${whyNone()}.`);
}

// What another page has decided of an example since is not undone.
function undo() {
  const done = past.pop();
  if (!done) return;
  takeKept();
  const [decision, label] = [columns.get("decision").values, columns.get("new_label").values];
  const own = done.filter(({ row, after }) => decision[row] === after[0] && label[row] === after[1]);
  change(own.map(({ row, before }) => [row, ...before]));
  if (own.length) past.pop(); // the undoing itself
  else say("Another page has decided otherwise since: nothing is undone.");
}

function showDecisions() {
  const kinds = columns.get("decision").values;
  const counts = DECISIONS.map(() => 0);
  for (const kind of kinds) counts[kind]++;
  byId("decision-count").textContent = DECISIONS.slice(1).map((kind, i) => `${number(counts[i + 1])} ${kind}`).join(", ");
  byId("decision-undo").disabled = !past.length;
  for (const id of ["decision-save", "decision-clear"]) byId(id).disabled = counts[0] === header.count;
  if (filter.codes.has("decision")) updateAround();
  else drawRows();
  redrawMap();
  refreshCard();
}

// A decided row may leave the table: the focus stays at its place.
function updateAround() {
  const place = byId("scroll").contains(document.activeElement) ? activePlace : -1;
  update();
  if (place >= 0 && tableOrder.length) focusRow(Math.min(place, tableOrder.length - 1));
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

// As `change` takes them. Throws an Error for a file of other rows, or another file.
function readDecisions(content) {
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  if (content?.format !== "pdepth-decisions" || content.version !== 1) throw new Error("expected decisions that pdepth wrote, got another file");
  if (!same(content.run, header.run)) throw new Error("expected decisions of this run's data, got those of other data");
  const places = new Map(Array.from(idColumn().values, (row, place) => [row, place]));
  const codes = new Map(header.classes.map(({ value }, code) => [Number(value), code]));
  return content.decisions.map(({ row, decision, label }) => {
    const code = decision === "relabel" ? codes.get(label) : header.classes.length;
    if (!places.has(row) || DECISIONS.indexOf(decision) < 1 || code === undefined) throw new Error(`expected a decision of this page's rows and classes, got another of row ${row}`);
    return [places.get(row), DECISIONS.indexOf(decision), code];
  });
}

let canKeep = true; // false where the browser has decisions that this page cannot show
let keptText = null; // what the browser has, as this page knows it; null: nothing

// In the browser, as the file would have them. None, once there were some, is kept, too: other pages
// that are open take it over.
function keepDecisions() {
  if (!canKeep || (keptText === null && !decided().length)) return;
  const text = JSON.stringify(decisionsFile());
  try {
    localStorage.setItem(storageKey(), text);
    keptText = text;
    byId("decision-note").textContent = "";
  } catch {
    byId("decision-note").textContent = "This browser does not keep them: download them before the page is closed.";
  }
}

// Takes over what the browser has, if another page has changed it; returns whether one has. Of a page of
// the same data with classes that this one lacks they stay as they are. A storage that somebody has
// emptied takes none away.
function takeKept() {
  if (!canKeep) return false;
  let text = keptText;
  try {
    text = localStorage.getItem(storageKey());
  } catch { /* no storage: keepDecisions says so */ }
  if (text === null || text === keptText) return false;
  try {
    const kept = readDecisions(JSON.parse(text));
    columns.get("decision").values.fill(0);
    columns.get("new_label").values.fill(header.classes.length);
    for (const [row, kind, code] of kept) [columns.get("decision").values[row], columns.get("new_label").values[row]] = [kind, code];
    keptText = text;
    return true;
  } catch (error) {
    canKeep = false;
    byId("decision-note").textContent = `This browser keeps decisions of these rows that do not fit this page (${error.message}), and leaves them as they are: download what you decide here.`;
    return false;
  }
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
  if (suggested === undefined) select.append(option("", "choose"));
  header.classes.forEach(({ name }, code) => code === label || select.append(option(code, name)));
  select.value = suggested ?? "";
  const picked = () => (select.value === "" ? undefined : Number(select.value));
  select.addEventListener("change", () => picked() !== undefined && decide([row], "relabel", picked()));
  const buttons = Object.entries(KEYS).map(([key, each]) => {
    const button = make("button", { type: "button", "aria-pressed": kind === each }, each[0].toUpperCase() + each.slice(1), " ", make("kbd", {}, key.toUpperCase()));
    button.addEventListener("click", () => decide([row], each, each === "relabel" ? picked() : undefined));
    return button;
  });
  const [keep, relabel, drop] = buttons;
  const tick = make("button", { type: "button", "aria-pressed": Boolean(chosen.rows[row]) }, "In the set ", make("kbd", {}, "S"));
  tick.addEventListener("click", () => toggleCard(row));
  return make("div", { class: "decide", role: "group", "aria-label": "Decision" }, keep, relabel, "as", select, drop, tick);
}

function toggleCard(row) {
  toggle(row);
  refreshCard();
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
      change(readDecisions(JSON.parse(await target.files[0].text())));
    } catch (error) {
      byId("decision-note").textContent = `${target.files[0].name}: ${error.message}.`;
    }
    target.value = "";
  });
  addEventListener("storage", ({ key }) => key === storageKey() && takeKept() && showDecisions());
  for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => said.remove(), { capture: true });
  takeKept();
  showDecisions();
}
