// The table: sorted, with only the visible rows in the document; and its CSV file.

const HEIGHT = 44; // of a row, as in page.css
const MAX_HEIGHT = 8e6; // pixels, which every browser can scroll through
const OVERSCAN = 6; // rows drawn above and below the visible ones
let tableOrder = new Uint32Array(0); // filtered rows as sorted
let sorting = { column: null, sign: 1 };
let activePlace = 0; // the row that the keyboard moves from, by its place in the order

const tableColumns = () => [...columns.values()].filter((column) => column.title);

function buildTable(onChange) {
  const row = make("tr", {}, make("th", { scope: "col", style: "width:44px" }, make("span", { class: "skip" }, "In the set")));
  if (hasImages) row.append(make("th", { scope: "col", style: "width:58px" }, make("span", { class: "skip" }, "Picture")));
  for (const column of tableColumns()) {
    const mark = make("span", { "aria-hidden": "true" });
    const button = make("button", { type: "button" }, column.title, mark);
    const isWide = column.name === header.depth && header.probes.includes("undefined");
    const width = isWide ? 132 : isNumeric(column) || column.live ? 112 : column.choices.length > 3 ? 270 : 150;
    const cell = make("th", { scope: "col", style: `width:${width}px`, "data-column": column.name }, button);
    if (isNumeric(column)) cell.className = "figure";
    button.addEventListener("click", () => {
      const same = sorting.column === column;
      sorting = same && sorting.sign < 0 ? { column: null, sign: 1 } : { column, sign: same ? -1 : 1 };
      onChange();
    });
    row.append(cell);
  }
  const table = byId("scroll").querySelector("table");
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "Examples");
  table.tHead.replaceChildren(row);
  byId("scroll").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  table.tBodies[0].addEventListener("keydown", handleTableKey);
  table.tBodies[0].addEventListener("click", (event) => {
    const place = Number(event.target.closest("tr")?.dataset.place);
    if (Number.isNaN(place)) return;
    if (event.target.closest(".tick")) tickRows(place, event.shiftKey);
    else openExample(tableOrder[place]);
  });
}

let tickedPlace = 0; // the row that a range of ticks begins at

function tickRows(place, isRange) {
  const [first, last] = isRange ? [Math.min(place, tickedPlace), Math.max(place, tickedPlace)] : [place, place];
  choose(tableOrder.subarray(first, last + 1), chosen.rows[tableOrder[place]] ? "remove" : "add");
  tickedPlace = place;
}

function sortTable(rows) {
  tableOrder = rows.slice();
  const { column, sign } = sorting;
  if (column) {
    const key = sortKey(column);
    // Missing values come last, in both directions; equal ones keep the order of rows.
    tableOrder.sort((a, b) => {
      const [x, y] = [key[a], key[b]];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y) || a - b;
    });
  }
  for (const cell of byId("scroll").querySelectorAll("th[data-column]")) {
    const isSorted = column?.name === cell.dataset.column;
    cell.setAttribute("aria-sort", isSorted ? (sign > 0 ? "ascending" : "descending") : "none");
    cell.querySelector("span").textContent = isSorted ? (sign > 0 ? " ↑" : " ↓") : "";
  }
  activePlace = tickedPlace = 0;
  byId("scroll").scrollTop = 0;
  drawRows();
}

// Numbers to sort by; names have their place in alphabetical order.
function sortKey(column) {
  if (column.kind === "whole" || column.kind === "number") return new Float64Array(column.values);
  const names = isCoded(column)
    ? (column.kind === "choice" ? column.choices : header.classes.map(({ name }) => name))
    : column.values;
  const order = [...names.keys()].sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true }));
  const rank = new Float64Array(names.length);
  order.forEach((place, i) => (rank[place] = i));
  return isCoded(column) ? Float64Array.from(column.values, (code) => rank[code] ?? NaN) : rank;
}

function drawRows() {
  const box = byId("scroll");
  const table = box.querySelector("table");
  const count = tableOrder.length;
  const step = Math.min(HEIGHT, MAX_HEIGHT / Math.max(count, 1)); // pixels of scrolling a row
  const visible = Math.ceil(box.clientHeight / HEIGHT);
  const begin = Math.max(0, Math.min(Math.floor(box.scrollTop / step) - OVERSCAN, count - visible));
  const end = Math.min(count, begin + visible + 2 * OVERSCAN);
  const hadFocus = table.contains(document.activeElement) && document.activeElement.closest("tbody tr");
  const rows = [gap(begin * step)];
  for (let place = begin; place < end; place++) rows.push(rowAt(place));
  rows.push(gap((count - end) * step));
  table.setAttribute("aria-rowcount", count + 1);
  table.tBodies[0].replaceChildren(...rows);
  if (hadFocus) table.querySelector(`tr[data-place="${activePlace}"]`)?.focus({ preventScroll: true });
}

function gap(height) {
  const span = tableColumns().length + 1 + hasImages;
  return make("tr", { class: "gap", "aria-hidden": "true" },
    make("td", { colspan: span, style: `height:${height}px` }));
}

function rowAt(place) {
  const row = tableOrder[place];
  const element = make("tr", { "data-place": place, "aria-rowindex": place + 2, tabindex: place === activePlace ? 0 : -1, "aria-selected": Boolean(chosen.rows[row]) });
  const tick = make("input", { type: "checkbox", tabindex: -1, "aria-label": "In the set" });
  tick.checked = chosen.rows[row];
  element.append(make("td", { class: "tick" }, tick));
  if (hasImages) element.append(make("td", {}, imageOf(row)));
  for (const column of tableColumns()) {
    element.append(make("td", isNumeric(column) ? { class: "figure" } : {}, displayText(column, row)));
  }
  return element;
}

function handleTableKey(event) {
  const page = Math.floor(byId("scroll").clientHeight / HEIGHT) - 1;
  const last = tableOrder.length - 1;
  const to = {
    ArrowDown: activePlace + 1, ArrowUp: activePlace - 1, PageDown: activePlace + page, PageUp: activePlace - page,
    Home: 0, End: last,
  }[event.key];
  if (event.key === "Enter" || event.key === " ") openExample(tableOrder[activePlace]);
  else if (event.key === "s" && !event.ctrlKey && !event.metaKey) toggle(tableOrder[activePlace]);
  else if (decideByKey(event, tableOrder[activePlace])) { /* done */ }
  else if (to === undefined) return;
  else focusRow(Math.max(0, Math.min(last, to)));
  event.preventDefault();
}

function focusRow(place) {
  activePlace = place;
  const box = byId("scroll");
  const step = Math.min(HEIGHT, MAX_HEIGHT / tableOrder.length);
  const head = box.querySelector("thead").offsetHeight;
  const room = box.clientHeight - head - HEIGHT;
  if (place * step < box.scrollTop) box.scrollTop = place * step;
  if (place * step > box.scrollTop + room) box.scrollTop = place * step - room;
  drawRows();
  box.querySelector(`tr[data-place="${place}"]`)?.focus({ preventScroll: true });
}

function csvOf(head, rows) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // A spreadsheet would take such text for a formula; a negative number is none.
  const formula = (text) => /^[=+\-@\t\r\n]/.test(text) && Number.isNaN(Number(text));
  const plain = (text) => (formula(text) ? `'${text}` : text);
  return [head, ...rows].map((texts) => texts.map((text) => quoted(plain(text))).join(",")).join("\r\n") + "\r\n";
}

// Every column of some examples.
function csvText(rows) {
  const kept = [...columns.values()].filter((column) => column.kind !== "order");
  const head = [];
  const cells = [];
  for (const column of kept) {
    head.push(column.name);
    cells.push((row) => csvValue(column, row));
    if (column.kind === "class" && column.title && header.named) {
      head.push(`${column.name}_name`);
      cells.push((row) => nameOf(column, column.values[row]));
    }
  }
  return csvOf(head, Array.from(rows, (row) => cells.map((cell) => cell(row))));
}

function save(name, blob) {
  const link = make("a", { download: name });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
