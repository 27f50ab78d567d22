// The filter: which examples the plots, images and table show.

const filter = { codes: new Map(), least: -Infinity, most: Infinity, words: [], onlySet: false };

function option(value, text) {
  return make("option", { value }, text);
}

function buildFilter(onChange) {
  const controls = byId("controls");
  for (const [name, title] of header.selects) {
    const column = columns.get(name);
    const select = make("select", { id: `filter-${name}`, "data-column": name }, option("", "all"));
    const counts = new Map();
    for (const code of column.values) counts.set(code, (counts.get(code) ?? 0) + 1);
    if (column.live) select.append(...column.choices.map((text, code) => option(code, text || "none yet")));
    else for (const code of [...counts.keys()].sort((a, b) => a - b)) {
      const text = nameOf(column, code) || "missing";
      select.append(option(code, `${text} (${number(counts.get(code))})`));
    }
    select.addEventListener("change", () => {
      if (select.value === "") filter.codes.delete(name);
      else filter.codes.set(name, Number(select.value));
      onChange();
    });
    controls.append(make("label", {}, title, select));
  }
  controls.append(depthControl(onChange));
  const search = make("input", { id: "search", type: "search", placeholder: "row number, class, right …" });
  let timer;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      filter.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      onChange();
    }, 120);
  });
  controls.append(make("label", {}, "Search", search));
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("reset", () => {
    clearTimeout(timer);
    filter.codes.clear();
    Object.assign(filter, { least: -Infinity, most: Infinity, words: [], onlySet: false });
    onChange();
  });
}

// The range of depths: probes by name, or mean depths as numbers.
function depthControl(onChange) {
  const column = columns.get(header.depth);
  const ends = ["least", "most"].map((end, i) => {
    const bound = i ? Infinity : -Infinity;
    const label = i ? "Deepest" : "Shallowest";
    let input;
    if (header.probes.length) {
      input = make("select", { "aria-label": label, id: `depth-${end}` }, option("", i ? "last" : "first"));
      header.probes.forEach((probe, depth) => input.append(option(depth, probe)));
    } else {
      input = make("input", {
        type: "number", "aria-label": label, id: `depth-${end}`,
        min: 0, max: header.facts.layers, step: 0.1, placeholder: i ? header.facts.layers : 0,
      });
    }
    input.addEventListener("change", () => {
      filter[end] = input.value === "" ? bound : Number(input.value);
      onChange();
    });
    return input;
  });
  const group = make("div", { role: "group", "aria-label": column.title, class: "range" });
  group.append(column.title, make("div", {}, ends[0], "to", ends[1]));
  return group;
}

// Keep the examples of one depth only: a click on its bar.
function keepDepth(depth, onChange) {
  for (const end of ["least", "most"]) {
    byId(`depth-${end}`).value = depth;
    filter[end] = depth;
  }
  onChange();
}

function wordTest(word) {
  const id = idColumn();
  const tests = header.columns
    .filter((entry) => entry.title && (entry.kind === "class" || entry.kind === "choice"))
    .map((entry) => {
      const column = columns.get(entry.name);
      const names = column.kind === "choice" ? column.choices : header.classes.map(({ name }) => name);
      const matches = Uint8Array.from([...names, ""], (name) => name.toLowerCase().includes(word));
      return (row) => matches[column.values[row]];
    });
  tests.push(
    id.kind === "text"
      ? (row) => id.values[row].toLowerCase().includes(word)
      : (row) => String(id.values[row]) === word,
  );
  return (row) => tests.some((test) => test(row));
}

// The rows that the filter keeps, in order; those without a depth only where every depth is kept.
function filteredRows() {
  const tests = filter.words.map(wordTest);
  if (filter.onlySet) tests.push((row) => chosen.rows[row]);
  for (const [name, code] of filter.codes) {
    const { values } = columns.get(name);
    tests.push((row) => values[row] === code);
  }
  if (filter.least > -Infinity || filter.most < Infinity) {
    const { values } = columns.get(header.depth);
    tests.push((row) => values[row] >= filter.least && values[row] <= filter.most);
  }
  const rows = new Uint32Array(header.count);
  let n = 0;
  for (let row = 0; row < header.count; row++) {
    let kept = true;
    for (let i = 0; kept && i < tests.length; i++) kept = tests[i](row);
    if (kept) rows[n++] = row;
  }
  return rows.subarray(0, n);
}
