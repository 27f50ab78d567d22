// One named set of examples: made by filter, table and lasso, shown alone, and saved as files.

const chosen = { rows: new Uint8Array(header.count), count: 0 };

const chosenRows = () => placesOf(chosen.rows);
const setName = () => byId("set-name").value.trim() || "selection";

// how: "add", "remove" or "replace".
function choose(rows, how) {
  if (how === "replace") chosen.rows.fill(0);
  const value = how === "remove" ? 0 : 1;
  for (const row of rows) chosen.rows[row] = value;
  chosen.count = chosen.rows.reduce((sum, each) => sum + each, 0);
  showSet();
}

const toggle = (row) => choose([row], chosen.rows[row] ? "remove" : "add");

function showSet() {
  redrawMap(); // first, while the page's layout is known
  byId("set-count").textContent = `${number(chosen.count)} ${chosen.count === 1 ? "example" : "examples"} in the set`;
  for (const button of document.querySelectorAll("[data-of-set]")) button.disabled = !chosen.count;
  byId("set-issues").disabled = !chosen.count || !columns.has("label_score");
  if (filter.onlySet) update();
  else drawRows();
}

// Label issues of the set as cleanlab has them, the worst first.
function issueTable() {
  const [score, suggested, label] = ["label_score", "suggested_label", "label"].map((name) => columns.get(name));
  const rows = chosenRows().sort((a, b) => score.values[b] - score.values[a] || a - b);
  const head = ["row", "is_label_issue", "label_quality", "given_label", "predicted_label"];
  return csvOf(head, rows.map((row) => [
    csvValue(idColumn(), row), score.values[row] >= header.facts.threshold ? "True" : "False",
    String(1 / (1 + Math.exp(score.values[row]))), csvValue(label, row), csvValue(suggested, row),
  ]));
}

function selectionFile() {
  const id = idColumn();
  const rows = chosenRows().map((row) => id.values[row]);
  return JSON.stringify({ format: "pdepth-selection", version: 1, run: header.run, name: setName(), rows });
}

const EXPORTS = {
  "set-csv": ["csv", () => new Blob([csvText(chosenRows())], { type: "text/csv" })],
  "set-json": ["json", () => new Blob([selectionFile()], { type: "application/json" })],
  "set-parquet": ["parquet", () => parquetFile(idColumn().name, chosenRows().map((row) => idColumn().values[row]))],
  "set-issues": ["issues.csv", () => new Blob([issueTable()], { type: "text/csv" })],
};

function buildSelection() {
  byId("set-add").addEventListener("click", () => choose(currentRows, "add"));
  byId("set-remove").addEventListener("click", () => choose(currentRows, "remove"));
  byId("set-clear").addEventListener("click", () => choose([], "replace"));
  byId("set-only").addEventListener("change", () => {
    filter.onlySet = byId("set-only").checked;
    update();
  });
  for (const [id, [suffix, content]] of Object.entries(EXPORTS)) {
    byId(id).addEventListener("click", () => save(`${setName().replace(/[^\p{L}\p{N}._-]+/gu, "-")}.${suffix}`, content()));
  }
  if (!columns.has("label_score")) byId("set-issues").title = "Needs labels, and all votes: pdepth run --all-votes --keep-neighbors 8";
  showSet();
}
