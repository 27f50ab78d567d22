// ---- The table: sorted, of the rows in sight only; and its file ----

const HEIGHT = 44; // of a row, as in page.css
const TALLEST = 8e6; // pixels, which every browser can scroll through
const BEYOND = 6; // rows drawn above and below what is seen
let tableOrder = new Uint32Array(0); // filtered rows as sorted
let sorting = { column: null, sign: 1 };
let active = 0; // the place that the keyboard is at

const tableColumns = () => [...columns.values()].filter((column) => column.title);

function buildTable(changed) {
  const row = make("tr");
  if (pictured) row.append(make("th", { scope: "col", style: "width:58px" }, make("span", { class: "skip" }, "Picture")));
  for (const column of tableColumns()) {
    const mark = make("span", { "aria-hidden": "true" });
    const button = make("button", { type: "button" }, column.title, mark);
    const width = isFigure(column) ? 112 : column.choices.length > 3 ? 270 : 150;
    const cell = make("th", { scope: "col", style: `width:${width}px`, "data-column": column.name }, button);
    if (isFigure(column)) cell.className = "figure";
    button.addEventListener("click", () => {
      const same = sorting.column === column;
      sorting = same && sorting.sign < 0 ? { column: null, sign: 1 } : { column, sign: same ? -1 : 1 };
      changed();
    });
    row.append(cell);
  }
  const table = byId("scroll").querySelector("table");
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "Examples");
  table.tHead.replaceChildren(row);
  byId("scroll").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  table.tBodies[0].addEventListener("keydown", walkTable);
  table.tBodies[0].addEventListener("click", (event) => {
    const place = event.target.closest("tr")?.dataset.place;
    if (place !== undefined) openExample(tableOrder[place]);
  });
}

function sortTable(rows) {
  tableOrder = rows.slice();
  const { column, sign } = sorting;
  if (column) {
    const key = sortKey(column);
    // What is missing comes last, either way; equals keep the order of rows.
    tableOrder.sort((a, b) => {
      const [x, y] = [key[a], key[b]];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y) || a - b;
    });
  }
  for (const cell of byId("scroll").querySelectorAll("th[data-column]")) {
    const of = column?.name === cell.dataset.column;
    cell.setAttribute("aria-sort", of ? (sign > 0 ? "ascending" : "descending") : "none");
    cell.querySelector("span").textContent = of ? (sign > 0 ? " ↑" : " ↓") : "";
  }
  active = 0;
  byId("scroll").scrollTop = 0;
  drawRows();
}

// Numbers to sort by: names by their place in the alphabet.
function sortKey(column) {
  if (column.kind === "whole" || column.kind === "number") return new Float64Array(column.values);
  const names = coded(column)
    ? (column.kind === "choice" ? column.choices : header.classes.map((each) => each.name))
    : column.values;
  const order = [...names.keys()].sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true }));
  const rank = new Float64Array(names.length);
  order.forEach((place, i) => (rank[place] = i));
  return coded(column) ? Float64Array.from(column.values, (code) => rank[code] ?? NaN) : rank;
}

function drawRows() {
  const box = byId("scroll");
  const table = box.querySelector("table");
  const many = tableOrder.length;
  const step = Math.min(HEIGHT, TALLEST / Math.max(many, 1)); // pixels of scrolling a row
  const seen = Math.ceil(box.clientHeight / HEIGHT);
  const begin = Math.max(0, Math.min(Math.floor(box.scrollTop / step) - BEYOND, many - seen));
  const end = Math.min(many, begin + seen + 2 * BEYOND);
  const held = table.contains(document.activeElement) && document.activeElement.closest("tbody tr");
  const rows = [gap(begin * step)];
  for (let place = begin; place < end; place++) rows.push(rowAt(place));
  rows.push(gap((many - end) * step));
  table.setAttribute("aria-rowcount", many + 1);
  table.tBodies[0].replaceChildren(...rows);
  if (held) table.querySelector(`tr[data-place="${active}"]`)?.focus({ preventScroll: true });
}

function gap(height) {
  const span = tableColumns().length + pictured;
  return make("tr", { class: "gap", "aria-hidden": "true" },
    make("td", { colspan: span, style: `height:${height}px` }));
}

function rowAt(place) {
  const row = tableOrder[place];
  const line = make("tr", { "data-place": place, "aria-rowindex": place + 2, tabindex: place === active ? 0 : -1 });
  if (pictured) line.append(make("td", {}, picture(row)));
  for (const column of tableColumns()) {
    line.append(make("td", isFigure(column) ? { class: "figure" } : {}, shown(column, row)));
  }
  return line;
}

function walkTable(event) {
  const page = Math.floor(byId("scroll").clientHeight / HEIGHT) - 1;
  const last = tableOrder.length - 1;
  const to = {
    ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page,
    Home: 0, End: last,
  }[event.key];
  if (event.key === "Enter" || event.key === " ") openExample(tableOrder[active]);
  else if (to === undefined) return;
  else goTo(Math.max(0, Math.min(last, to)));
  event.preventDefault();
}

function goTo(place) {
  active = place;
  const box = byId("scroll");
  const step = Math.min(HEIGHT, TALLEST / tableOrder.length);
  const head = box.querySelector("thead").offsetHeight;
  const room = box.clientHeight - head - HEIGHT;
  if (place * step < box.scrollTop) box.scrollTop = place * step;
  if (place * step > box.scrollTop + room) box.scrollTop = place * step - room;
  drawRows();
  box.querySelector(`tr[data-place="${place}"]`)?.focus({ preventScroll: true });
}

// Every column of the examples that are filtered, in the order of the table.
function csv() {
  const kept = [...columns.values()].filter((column) => column.kind !== "order");
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = [];
  const cells = [];
  for (const column of kept) {
    head.push(column.name);
    cells.push((row) => saved(column, row));
    if (column.kind === "class" && column.title && header.named) {
      head.push(`${column.name}_name`);
      cells.push((row) => nameOf(column, column.values[row]));
    }
  }
  const lines = [head.map(quoted).join(",")];
  for (const row of tableOrder) lines.push(cells.map((cell) => quoted(cell(row))).join(","));
  return lines.join("\r\n") + "\r\n";
}

function download() {
  const link = make("a", { download: "examples.csv" });
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
