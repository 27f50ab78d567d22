// Plots: plotly with this page's colours, drawn when they become visible.

const drawnRows = new Map(); // by view, the rows that its plot shows
const visibleViews = new Set();

// A colour of the style sheet, as it is now, light or dark.
const colourSample = document.body.appendChild(make("i", { hidden: "" }));
function colour(name) {
  colourSample.style.color = `var(--${name})`;
  return getComputedStyle(colourSample).color;
}

// plotly interprets some HTML in its texts; names from data must appear unchanged.
const escapeHtml = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function axis(more = {}) {
  return {
    gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true,
    tickfont: { color: colour("muted") },
    ...more,
    title: { text: more.title ?? "", standoff: 12, font: { color: colour("muted"), size: 13 } },
  };
}

// The axis of depths, labelled with probes; labels that are too long are slanted.
function probeAxis(view, names = header.probes) {
  const width = byId(view).querySelector(".plot").clientWidth / names.length;
  const slanted = Math.max(...names.map((name) => name.length)) * 7.5 + 8 > width;
  return axis({
    tickangle: slanted ? -40 : 0, tickfont: { color: colour("muted"), size: slanted ? 11.5 : 13 },
    tickvals: [...names.keys()], ticktext: names.map(escapeHtml), range: [-0.6, names.length - 0.4],
    showgrid: false, fixedrange: true,
  });
}

const SHARES = [0, 0.2, 0.4, 0.6, 0.8, 1];
const shareAxis = (title) =>
  axis({ range: [-0.03, 1.04], tickvals: SHARES, ticktext: SHARES.map((share) => `${Math.round(100 * share)} %`), fixedrange: true, title });

function layoutOf(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 13 },
    margin: { l: 12, r: 18, t: 38, b: 12 }, hovermode: "closest", dragmode: "zoom", bargap: 0.26,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("accent") },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 12.5 } },
    ...more,
  };
}

// The buttons of a plot; only plots of dots can be zoomed.
const configOf = (traces) => ({
  displaylogo: false, responsive: true, doubleClick: "reset",
  modeBarButtons: [traces[0]?.rows ? ["zoom2d", "pan2d", "resetScale2d", "toImage"] : ["toImage"]],
});

const webgl = (() => {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl"));
  } catch {
    return false;
  }
})();
const MAX_DOTS = webgl ? 200000 : 4000; // of a trace; of more every so many is drawn

// A trace with one dot per example; `rows` identifies the examples of its points.
function dots(rows, x, y, more) {
  const step = Math.ceil(rows.length / MAX_DOTS);
  const sample = step <= 1 ? rows : rows.filter((_, i) => i % step === 0);
  const [across, up] = [new Float64Array(sample.length), new Float64Array(sample.length)];
  for (let i = 0; i < sample.length; i++) {
    across[i] = x(sample[i]);
    up[i] = y(sample[i]);
  }
  return {
    type: webgl ? "scattergl" : "scatter", mode: "markers", rows: sample, x: across, y: up, ...more,
    marker: { size: header.count > 20000 ? 4 : header.count > 4000 ? 5.5 : 7, opacity: 0.7, ...more.marker },
  };
}

// Draw a view, if it is visible and shows other rows than before.
function drawView(key, rows) {
  if (!visibleViews.has(key) || drawnRows.get(key) === rows) return;
  drawnRows.set(key, rows);
  if (key === "map") return drawMap(rows);
  const place = byId(key).querySelector(".plot");
  const { traces, layout, pointInfo, onClick, words } = views[key](rows);
  const all = traces.map((trace) => ({ hoverinfo: "none", ...trace }));
  Plotly.react(place, all, layoutOf(layout), configOf(traces));
  place.setAttribute("aria-label", `Plot of ${number(rows.length)} examples. ${words ?? ""}`);
  place.pointInfo = pointInfo;
  place.onClick = onClick;
  if (place.listens) return;
  place.listens = true;
  place.on("plotly_hover", ({ event, points }) => {
    const info = place.pointInfo(points[0]);
    if (event && info) showHover(event, info.rows, info.lines);
  });
  place.on("plotly_unhover", () => (byId("hover").hidden = true));
  place.on("plotly_click", ({ points }) => {
    byId("hover").hidden = true;
    place.onClick?.(points[0]);
  });
}

function watchViews(onChange) {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) visibleViews.add(target.id);
        else visibleViews.delete(target.id);
      }
      onChange();
    },
    { rootMargin: "200px" },
  );
  document.querySelectorAll(".view").forEach((view) => watcher.observe(view));
}

// plotly.js is compressed in the page, too, and started when the text is visible.
async function startPlotly() {
  const code = new TextDecoder().decode(await unpack("plotly"));
  document.head.append(make("script", {}, code));
}
