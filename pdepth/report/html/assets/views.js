// Views: each takes the filtered rows and returns what plotly draws.
// pointInfo(point): rows and text lines of a point under the pointer; onClick(point): a click on it.

const values = (name) => columns.get(name)?.values;
const hasRight = () => columns.has("right");
const settlesAt = (row) =>
  columns.has("depth") && !values("undefined")[row] ? header.probes[values("depth")[row]] : "";
const describeExample = (row) => [exampleName(row), ...captionOf(row), settlesAt(row) && `settles at ${settlesAt(row)}`];
const dotActions = {
  pointInfo: (point) => {
    const row = point.data.rows[point.pointNumber];
    return { rows: [row], lines: describeExample(row) };
  },
  onClick: (point) => openExample(point.data.rows[point.pointNumber]),
};

// How many rows have each depth, and on how many of those the network is right.
function countByDepth(rows) {
  const [depth, right] = [values("depth"), values("right")];
  const all = new Uint32Array(header.facts.layers + 1);
  const good = new Uint32Array(all.length);
  for (const row of rows) {
    all[depth[row]]++;
    if (right?.[row]) good[depth[row]]++;
  }
  return { all, good };
}

// Wilson's 95 % interval of a share.
function wilson(successes, n, z = 1.96) {
  const share = successes / n;
  const centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [Math.max(centre - half, 0), Math.min(centre + half, 1)];
}

// A line through points; those of few examples are hollow.
function line(name, at, y, counts, shade, symbol, dash = "solid") {
  return {
    type: "scatter", mode: "lines+markers", name, x: at, y, counts,
    line: { color: colour(shade), width: 2, dash },
    marker: {
      size: 9, symbol, line: { color: colour(shade), width: 2 },
      color: counts.map((n) => colour(n < header.few ? "surface" : shade)),
    },
  };
}

// Pairs of classes that are confused at some probe, as pdepth.analysis.network.confused_pairs has them.
function pairsOf(rows) {
  const label = values("label");
  const votes = header.probes.map((probe) => values(`vote_${probe}`)).filter(Boolean);
  const classes = header.classes.length;
  const classSizes = new Uint32Array(classes);
  const pairs = new Map(); // first * classes + second: counts by probe
  for (const row of rows) classSizes[label[row]]++;
  votes.forEach((vote, probe) => {
    let [last, counts] = [-1, null]; // rows of one class often follow each other
    for (let i = 0; i < rows.length; i++) {
      const [a, b] = [label[rows[i]], vote[rows[i]]];
      if (a === b) continue;
      const key = a < b ? a * classes + b : b * classes + a;
      if (key !== last) {
        counts = pairs.get(key);
        if (!counts) pairs.set(key, (counts = new Uint32Array(votes.length)));
        last = key;
      }
      counts[probe]++;
    }
  });
  const confused = [];
  for (const [key, counts] of pairs) {
    const [a, b] = [Math.floor(key / classes), key % classes];
    const examples = classSizes[a] + classSizes[b];
    let until = votes.length - 1;
    while (until >= 0 && counts[until] < 0.05 * examples) until--;
    if (until < 0) continue;
    confused.push({ a, b, counts, examples, until, sum: counts.reduce((x, y) => x + y) });
  }
  return confused.sort((x, y) => y.until - x.until || y.sum - x.sum || x.a - y.a || x.b - y.b).slice(0, 12);
}

// The column that the dots of `scatter` are placed by, upward: of those that stay as they are.
let upward = "";
function chooseUpward(onChange) {
  const figure = byId("scatter");
  if (!figure) return;
  const choices = [...columns.values()].filter(
    (c) => c.title && !["row", "depth", "right", "decision", "new_label"].includes(c.name) && c.kind !== "text",
  );
  upward = choices[0].name;
  const select = make("select", { id: "upward" }, ...choices.map((c) => option(c.name, c.title)));
  select.addEventListener("change", () => {
    upward = select.value;
    onChange();
  });
  figure.querySelector("figcaption").append(make("label", {}, "Upward", select));
}

// Colour and symbol of the dots of each group, distinct without colours too.
const GROUP_MARKERS = [
  ["mid", "circle-open"], ["bad", "x"], ["fourth", "diamond"], ["good", "square"],
  ["faint", "circle"], ["faint", "circle"],
];

const views = {
  settle(rows) {
    const { all, good } = countByDepth(rows);
    const at = [...header.probes.keys()];
    const wrong = at.map((d) => all[d] - good[d]);
    const bars = hasRight()
      ? [
          { name: "network right", y: at.map((d) => good[d]), marker: { color: colour("good") }, rightValue: 1 },
          {
            name: "network wrong", y: wrong, rightValue: 0,
            marker: { pattern: { shape: "/", bgcolor: colour("bad"), fgcolor: colour("surface"), size: 6, solidity: 0.25 } },
          },
        ]
      : [{ name: "examples", y: at.map((d) => all[d]), marker: { color: colour("good") } }];
    const most = Math.max(...all, 1);
    const crowded = byId("settle").clientWidth / at.length < 8 * number(most).length;
    return {
      traces: bars.map((bar) => ({ type: "bar", x: at, ...bar })),
      layout: {
        barmode: "stack", xaxis: probeAxis("settle"), showlegend: bars.length > 1,
        legend: { ...layoutOf({}).legend, traceorder: "normal" },
        yaxis: axis({ title: "examples", fixedrange: true, range: [0, most * 1.12] }),
        annotations: at.filter((d) => all[d] && !crowded).map((d) => ({
          x: d, y: all[d], yanchor: "bottom", text: number(all[d]), showarrow: false,
          font: { size: 11, color: colour("muted") },
        })),
      },
      words: at.map((d) => `${header.probes[d]}: ${number(all[d])}`).join(", "),
      pointInfo: ({ x, data }) => {
        const [depth, right] = [values("depth"), values("right")];
        const here = rows.filter((row) => depth[row] === x && (data.rightValue === undefined || right[row] === data.rightValue));
        return { rows: here, lines: [header.probes[x], `${number(here.length)}: ${data.name}`] };
      },
      onClick: ({ x }) => keepDepth(x, update),
    };
  },

  accuracy(rows) {
    const { all, good } = countByDepth(rows);
    const at = [...header.probes.keys()].filter((d) => all[d]);
    const y = at.map((d) => good[d] / all[d]);
    const ends = at.map((d) => wilson(good[d], all[d]));
    const trace = line("network right, with its 95 % interval", at, y, at.map((d) => all[d]), "good", "circle", "dot");
    trace.error_y = {
      type: "data", symmetric: false, thickness: 2, width: 0, color: colour("good"),
      array: ends.map(([, high], i) => high - y[i]), arrayminus: ends.map(([low], i) => y[i] - low),
    };
    return {
      traces: [trace],
      layout: { xaxis: probeAxis("accuracy"), yaxis: shareAxis("network right"), showlegend: false },
      words: at.map((d, i) => `${header.probes[d]}: ${percent(y[i], 1)}`).join(", "),
      pointInfo: ({ x }) => {
        const depth = values("depth");
        const [low, high] = wilson(good[x], all[x]);
        return {
          rows: rows.filter((row) => depth[row] === x),
          lines: [
            header.probes[x], `right on ${percent(good[x], all[x])}, ${number(good[x])} of ${number(all[x])}`,
            `95 % interval: ${percent(low, 1)} to ${percent(high, 1)}`,
          ],
        };
      },
      onClick: ({ x }) => keepDepth(x, update),
    };
  },

  probes(rows) {
    const names = header.probes.slice(0, header.facts.layers);
    const at = header.facts.complete;
    const shares = (target) => at.map((probe) => {
      const [vote, same] = [values(`vote_${names[probe]}`), values(target)];
      let n = 0;
      for (const row of rows) n += vote[row] === same[row];
      return rows.length ? n / rows.length : NaN;
    });
    const counts = at.map(() => rows.length);
    const traces = [line("votes as the network", at, shares("prediction"), counts, "good", "circle")];
    if (columns.has("label")) {
      traces.push(line("votes as the label", at, shares("label"), counts, "bad", "square", "dash"));
    }
    return {
      traces,
      layout: { xaxis: probeAxis("probes", names), yaxis: shareAxis("share of votes"), showlegend: true },
      words: traces.map((t) => `${t.name}: ${t.y.map((v, i) => `${names[at[i]]} ${percent(v, 1)}`).join(", ")}`).join(". "),
      pointInfo: ({ x, y, data }) => ({ rows: [], lines: [names[x], `${percent(y, 1)}: ${data.name}`] }),
    };
  },

  pairs(rows) {
    const pairs = pairsOf(rows).reverse(); // plotly draws upward
    const names = header.probes.slice(0, header.facts.layers);
    const z = pairs.map((pair) => Array.from(pair.counts, (n) => n / pair.examples));
    return {
      traces: [{
        type: "heatmap", x: [...names.keys()], y: [...pairs.keys()], z, xgap: 2, ygap: 2, showscale: false,
        colorscale: [[0, colour("surface")], [1, colour("bad")]], zmin: 0,
        text: z.map((shares) => shares.map((share) => String(Math.round(100 * share)))), texttemplate: "%{text}",
        textfont: { size: 11 },
      }],
      layout: {
        xaxis: probeAxis("pairs", names),
        yaxis: axis({
          tickvals: [...pairs.keys()], fixedrange: true, showgrid: false,
          ticktext: pairs.map(({ a, b }) => escapeHtml(`${header.classes[a].name} / ${header.classes[b].name}`)),
        }),
        margin: { l: 12, r: 18, t: 32, b: 12 },
        annotations: pairs.length ? [] : [{
          text: "No two classes are confused at 5 % of their examples or more.", showarrow: false,
          xref: "paper", yref: "paper", x: 0.5, y: 0.5,
        }],
      },
      words: pairs.map(({ a, b, until }) => `${header.classes[a].name} and ${header.classes[b].name} until ${names[until]}`).join(", "),
      pointInfo: ({ x, y }) => {
        const { a, b, counts, examples } = pairs[y];
        const both = `${header.classes[a].name} / ${header.classes[b].name}`;
        return {
          rows: [],
          lines: [both, `${names[x]}: ${number(counts[x])} of ${number(examples)} get the other's vote`],
        };
      },
    };
  },

  scatter(rows) {
    const [depth, column] = [values("depth"), columns.get(upward)];
    const spread = column.kind === "number" ? 0 : 0.72;
    const x = (row) => depth[row] + 0.78 * (jitter(row, 0) - 0.5);
    const y = (row) => column.values[row] + spread * (jitter(row, 1) - 0.5);
    const right = values("right");
    const small = header.count > 20000 ? 3.2 : undefined;
    const good = { color: colour("good"), ...(small && { size: small }) };
    const traces = right
      ? [
          dots(rows.filter((row) => right[row]), x, y, { name: "network right", marker: { ...good, opacity: 0.5 } }),
          dots(rows.filter((row) => !right[row]), x, y, { name: "network wrong", marker: { color: colour("bad"), symbol: "x", opacity: 0.9 } }),
        ]
      : [dots(rows, x, y, { name: "examples", marker: good })];
    const names = isCoded(column) && header.classes.map(({ name }) => escapeHtml(name));
    if (names && !column.values.every(isKnown)) names.push("none");
    const step = names ? Math.ceil(names.length / 30) : 1;
    const ticks = names ? [...names.keys()].filter((i) => i % step === 0) : undefined;
    return {
      traces,
      layout: {
        xaxis: { ...probeAxis("scatter"), fixedrange: false },
        yaxis: axis({
          title: column.title, showgrid: false,
          ...(names && { tickvals: ticks, ticktext: ticks.map((i) => names[i]), range: [-0.7, names.length - 0.3] }),
        }),
        showlegend: traces.length > 1, legend: { ...layoutOf({}).legend, itemsizing: "constant" },
      },
      words: `To the right: depth. Upward: ${column.title}.`,
      ...dotActions,
    };
  },

  plane(rows) {
    const [inSupport, heldOut, group] = [values("support_depth"), values("held_out_depth"), values("group")];
    const known = rows.filter((row) => !Number.isNaN(inSupport[row]) && !Number.isNaN(heldOut[row]));
    const apart = 0.02 * header.facts.layers; // mean depths are fractions: equal ones would hide
    const x = (row) => inSupport[row] + apart * (jitter(row, 0) - 0.5);
    const y = (row) => heldOut[row] + apart * (jitter(row, 1) - 0.5);
    const names = columns.get("group")?.choices ?? ["examples"];
    const traces = names.map((name, code) => {
      const [shade, symbol] = GROUP_MARKERS[code];
      const members = group ? known.filter((row) => group[row] === code) : known;
      return dots(members, x, y, { name: escapeHtml(name), marker: { color: colour(shade), symbol, opacity: 0.75 } });
    });
    const shape = (more) => ({ type: "line", line: { color: colour("muted"), width: 1, dash: "dash" }, ...more });
    const [across, up] = header.facts.limits ?? [[], []];
    return {
      traces: traces.filter((trace) => trace.rows.length),
      layout: {
        xaxis: axis({ title: "mean depth in the support" }),
        yaxis: axis({ title: "mean depth held out" }),
        shapes: [
          ...across.map((at) => shape({ x0: at, x1: at, y0: 0, y1: 1, yref: "paper" })),
          ...up.map((at) => shape({ y0: at, y1: at, x0: 0, x1: 1, xref: "paper" })),
        ],
        showlegend: Boolean(group),
      },
      words: `${number(known.length)} have both depths.`,
      ...dotActions,
    };
  },

  spread(rows) {
    const width = 0.25;
    const bins = Math.floor(header.facts.layers / width) + 1;
    const at = Array.from({ length: bins }, (_, bin) => bin * width);
    const counted = (name) => {
      const counts = new Array(bins).fill(0);
      for (const row of rows) {
        const value = values(name)[row];
        if (!Number.isNaN(value)) counts[Math.min(bins - 1, Math.round(value / width))]++;
      }
      return counts;
    };
    const curve = (name, title, shade, dash) => ({
      type: "scatter", mode: "lines", name: title, x: at, y: counted(name),
      line: { color: colour(shade), width: 2.2, dash, shape: "hvh" },
    });
    const traces = [
      curve("support_depth", "in the support", "good", "solid"),
      curve("held_out_depth", "held out", "bad", "dot"),
    ];
    return {
      traces,
      layout: {
        xaxis: axis({ title: "mean depth", fixedrange: true }),
        yaxis: axis({ title: "examples", fixedrange: true, rangemode: "tozero" }), showlegend: true,
      },
      words: traces.map((t) => `${t.name}: most at ${at[t.y.indexOf(Math.max(...t.y))]}`).join(", "),
      pointInfo: ({ x, y, data }) => ({ rows: [], lines: [`${number(y)} of about depth ${x}`, data.name] }),
    };
  },

  consistency(rows) {
    const width = 0.5;
    const depth = values("held_out_depth");
    const bin = (row) => Math.round(depth[row] / width);
    const sums = new Map();
    for (const row of rows) {
      if (Number.isNaN(depth[row])) continue;
      const sum = sums.get(bin(row)) ?? { n: 0, same: 0, right: 0 };
      sum.n++;
      sum.same += values("consistency")[row];
      sum.right += values("held_out_accuracy")[row];
      sums.set(bin(row), sum);
    }
    const bins = [...sums].sort((a, b) => a[0] - b[0]);
    const at = bins.map(([place]) => place * width);
    const counts = bins.map(([, { n }]) => n);
    const traces = [
      line("give the consensus", at, bins.map(([, s]) => s.same / s.n), counts, "good", "circle"),
      line("give the label", at, bins.map(([, s]) => s.right / s.n), counts, "bad", "square", "dash"),
    ];
    return {
      traces,
      layout: {
        xaxis: axis({ title: "mean depth held out", fixedrange: true }),
        yaxis: shareAxis("share of networks"), showlegend: true,
      },
      words: at.map((depth, i) => `depth ${depth}: ${percent(traces[0].y[i], 1)}`).join(", "),
      pointInfo: ({ x, y, data, pointNumber }) => ({
        rows: rows.filter((row) => bin(row) === Math.round(x / width)),
        lines: [`${number(data.counts[pointNumber])} of about depth ${x}`, `${percent(y, 1)} of the networks ${data.name}`],
      }),
    };
  },
};
