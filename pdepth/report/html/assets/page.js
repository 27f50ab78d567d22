// ---- The page: what follows from a change of the filter, and how it all begins ----

let current = new Uint32Array(0); // the filtered rows
let plotting = false; // plotly is there

let turn = 0; // of drawing; a later one ends an earlier one

// Draw what is out of date and in sight, each part by itself, so that keys and clicks come between.
async function drawViews() {
  const mine = ++turn;
  const parts = [() => drawSheets(current)];
  for (const key of plotting ? inSight : []) parts.push(() => drawView(key, current));
  for (const part of parts) {
    await new Promise((done) => setTimeout(done));
    if (mine !== turn) return;
    part();
  }
  document.documentElement.dataset.drawn = current.length;
}

// Words and table at once, pictures and plots a moment later.
function update() {
  current = filteredRows();
  const all = current.length === header.count ? "All " : "";
  const of = all ? "" : ` of ${number(header.count)}`;
  byId("count").textContent = `${all}${number(current.length)}${of} examples`;
  sortTable(current);
  drawViews();
}

function redraw() {
  drawn.clear();
  drawViews();
}

// Light and dark: the system's choice, until the reader makes one.
function buildTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => (button.textContent = dark() ? "Light colours" : "Dark colours");
  try {
    const kept = localStorage.getItem("pdepth-theme");
    if (kept) root.dataset.theme = kept;
  } catch { /* pages from a disk may have no storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("pdepth-theme", root.dataset.theme);
    } catch { /* likewise */ }
    name();
    redraw();
  });
  system.addEventListener("change", () => (name(), redraw()));
  name();
}

async function start() {
  buildTheme();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // the words first
  await readColumns();
  buildFilter(update);
  buildTable(() => sortTable(current));
  chooseUpward(redraw);
  byId("csv").addEventListener("click", download);
  byId("filter").hidden = false;
  update();
  watchViews(() => drawViews());
  await startPlotly();
  plotting = true;
  await drawViews();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  byId("trouble").hidden = false;
  byId("trouble").textContent =
    `The plots, the pictures and the table did not start in this browser (${error.message}). ` +
    "A current Chrome, Edge, Firefox or Safari shows them.";
  console.error(error);
});
