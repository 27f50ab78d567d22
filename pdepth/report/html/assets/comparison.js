// Views of a page that compares runs; depths are percentages of the probes.

const COMPARED = [
  ["deeper", (change) => change > 0, "bad", "triangle-up"],
  ["shallower", (change) => change < 0, "good", "triangle-down"],
  ["as deep", (change) => change === 0, "faint", "circle"],
];

Object.assign(views, {
  sides(rows) {
    const [first, second, change] = [values("first_depth"), values("second_depth"), values("change")];
    const [across, up] = header.facts.steps.map((step) => 0.7 * step);
    const x = (row) => first[row] + across * (jitter(row, 0) - 0.5);
    const y = (row) => second[row] + up * (jitter(row, 1) - 0.5);
    const traces = COMPARED.map(([name, belongs, shade, symbol]) =>
      dots(rows.filter((row) => belongs(change[row])), x, y, { name, marker: { color: colour(shade), symbol, opacity: 0.6 } }),
    ).filter((trace) => trace.rows.length);
    return {
      traces,
      layout: {
        xaxis: axis({ title: `depth in ${escapeHtml(header.facts.sides[0])}, %` }),
        yaxis: axis({ title: `depth in ${escapeHtml(header.facts.sides[1])}, %` }),
        shapes: [{ type: "line", x0: 0, y0: 0, x1: 100, y1: 100, line: { color: colour("muted"), width: 1, dash: "dash" } }],
        showlegend: true, legend: { ...layoutOf({}).legend, itemsizing: "constant" },
      },
      words: traces.map((trace) => `${trace.name}: ${number(trace.rows.length)}`).join(", "),
      ...dotActions,
    };
  },

  change(rows) {
    const change = values("change");
    const width = Math.min(...header.facts.steps);
    const bin = (row) => Math.round(change[row] / width);
    const counts = new Map();
    for (const row of rows) counts.set(bin(row), (counts.get(bin(row)) ?? 0) + 1);
    const at = [...counts.keys()].sort((a, b) => a - b);
    return {
      traces: [{
        type: "bar", x: at.map((place) => place * width), y: at.map((place) => counts.get(place)), width: 0.8 * width,
        marker: { color: at.map((place) => colour(place > 0 ? "bad" : place < 0 ? "good" : "faint")) },
      }],
      layout: {
        xaxis: axis({ title: "change, % of the probes", fixedrange: true }),
        yaxis: axis({ title: "examples", type: "log", fixedrange: true, dtick: 1 }), showlegend: false,
      },
      words: at.map((place) => `${(place * width).toFixed(0)} %: ${number(counts.get(place))}`).join(", "),
      pointInfo: ({ x, y }) => ({
        rows: rows.filter((row) => bin(row) === Math.round(x / width)),
        lines: [`about ${x.toFixed(0)} %`, `${number(y)} examples`],
      }),
    };
  },

  alignment() {
    const shades = [["good", "circle", "solid"], ["bad", "square", "dash"]];
    const traces = header.facts.accuracies.flatMap(([at, shares], side) =>
      at ? [line(escapeHtml(header.facts.sides[side]), at, shares, at.map(() => header.count), ...shades[side])] : [],
    );
    return {
      traces,
      layout: {
        xaxis: axis({ tickvals: [0, 1], ticktext: ["first probe", "last"], range: [-0.06, 1.06], fixedrange: true }),
        yaxis: shareAxis("votes that are the label"), showlegend: true,
      },
      words: "Of all examples, whatever the filter.",
      pointInfo: ({ y, data }) => ({ rows: [], lines: [data.name, percent(y, 1)] }),
    };
  },
});
