// The page: what a change of the filter updates, and how the page starts.

let currentRows = new Uint32Array(0); // the filtered rows
let plotlyReady = false;

let drawNumber = 0; // a later drawing ends an earlier one

// Draw what is visible and out of date, task by task, so that keys and clicks are handled in between.
async function drawViews() {
  const own = ++drawNumber;
  const tasks = [() => drawSheets(currentRows)];
  for (const key of plotlyReady ? visibleViews : []) tasks.push(() => drawView(key, currentRows));
  for (const task of tasks) {
    await new Promise((done) => setTimeout(done));
    if (own !== drawNumber) return;
    task();
  }
  document.documentElement.dataset.drawn = currentRows.length;
}

// Count and table at once, images and plots a moment later.
function update() {
  currentRows = filteredRows();
  const filtered = currentRows.length < header.count;
  const total = filtered ? ` of ${number(header.count)}` : "";
  byId("count").textContent = `${filtered ? "" : "All "}${number(currentRows.length)}${total} examples`;
  sortTable(currentRows);
  drawViews();
}

function redraw() {
  drawnRows.clear();
  drawViews();
}

// Light and dark: the system's choice, until the reader makes one.
function buildTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const updateLabel = () => (button.textContent = dark() ? "Light colours" : "Dark colours");
  try {
    const kept = localStorage.getItem("pdepth-theme");
    if (kept) root.dataset.theme = kept;
  } catch { /* pages from a disk may have no storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("pdepth-theme", root.dataset.theme);
    } catch { /* as above */ }
    updateLabel();
    redraw();
  });
  system.addEventListener("change", () => (updateLabel(), redraw()));
  updateLabel();
}

async function start() {
  buildTheme();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // the text first
  await readColumns();
  addDecisionColumns();
  buildFilter(update);
  buildTable(() => sortTable(currentRows));
  chooseUpward(redraw);
  byId("csv").addEventListener("click", () => save("examples.csv", new Blob([csvText(tableOrder)], { type: "text/csv" })));
  byId("filter").hidden = false;
  byId("set").hidden = false;
  buildSelection();
  buildDecisions();
  update();
  watchViews(() => drawViews());
  await startPlotly();
  plotlyReady = true;
  await drawViews();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  byId("failure").hidden = false;
  byId("failure").textContent =
    `The plots, the pictures and the table did not start in this browser (${error.message}). ` +
    "A current Chrome, Edge, Firefox or Safari shows them.";
  console.error(error);
});
