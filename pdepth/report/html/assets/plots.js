// ---- Plots: plotly with this page's colours, drawn when they come into sight ----

const drawn = new Map(); // by view, the rows that its plot is of
const inSight = new Set();

// A colour of the style sheet, as it is now, light or dark.
const probeOfColour = document.body.appendChild(make("i", { hidden: "" }));
function colour(name) {
  probeOfColour.style.color = `var(--${name})`;
  return getComputedStyle(probeOfColour).color;
}

// plotly takes some HTML in its texts; names from data are to be seen as they are.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function axis(more = {}) {
  return {
    gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true,
    tickfont: { color: colour("muted") },
    ...more,
    title: { text: more.title ?? "", standoff: 12, font: { color: colour("muted"), size: 13 } },
  };
}

// The axis of depths, named by probes; names that are too long for their place are slanted.
function probeAxis(view, names = header.probes) {
  const room = byId(view).querySelector(".plot").clientWidth / names.length;
  const slanted = Math.max(...names.map((name) => name.length)) * 7.5 + 8 > room;
  return axis({
    tickangle: slanted ? -40 : 0, tickfont: { color: colour("muted"), size: slanted ? 11.5 : 13 },
    tickvals: [...names.keys()], ticktext: names.map(plain), range: [-0.6, names.length - 0.4],
    showgrid: false, fixedrange: true,
  });
}

const shareAxis = (title) => axis({ range: [-0.03, 1.04], tickformat: ".0%", fixedrange: true, title });

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

// The buttons of a plot; only plots of dots are for zooming into.
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
const FEWER = 4000; // dots that are drawn where there is no WebGL

// A trace of a dot for each example. Rows are kept apart, for what is pointed at.
function dots(rows, x, y, more) {
  const some = webgl || rows.length <= FEWER ? rows : rows.filter((_, i) => i % Math.ceil(rows.length / FEWER) === 0);
  const [across, up] = [new Float64Array(some.length), new Float64Array(some.length)];
  for (let i = 0; i < some.length; i++) {
    across[i] = x(some[i]);
    up[i] = y(some[i]);
  }
  return {
    type: webgl ? "scattergl" : "scatter", mode: "markers", rows: some, x: across, y: up, ...more,
    marker: { size: header.count > 20000 ? 4 : header.count > 4000 ? 5.5 : 7, opacity: 0.7, ...more.marker },
  };
}

// Draw a view, if it can be seen and is of other rows than before.
function drawView(key, rows) {
  if (!inSight.has(key) || drawn.get(key) === rows) return;
  drawn.set(key, rows);
  const place = byId(key).querySelector(".plot");
  const { traces, layout, pointed, opened, words } = views[key](rows);
  const all = traces.map((trace) => ({ hoverinfo: "none", ...trace }));
  Plotly.react(place, all, layoutOf(layout), configOf(traces));
  place.setAttribute("aria-label", `Plot of ${number(rows.length)} examples. ${words ?? ""}`);
  place.pointed = pointed;
  place.opened = opened;
  if (place.listens) return;
  place.listens = true;
  place.on("plotly_hover", ({ event, points }) => {
    const found = place.pointed(points[0]);
    if (event && found) hover(event, found.rows, found.lines);
  });
  place.on("plotly_unhover", () => (byId("hover").hidden = true));
  place.on("plotly_click", ({ points }) => {
    byId("hover").hidden = true;
    place.opened?.(points[0]);
  });
}

function watchViews(changed) {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inSight.add(target.id);
        else inSight.delete(target.id);
      }
      changed();
    },
    { rootMargin: "200px" },
  );
  document.querySelectorAll(".view").forEach((view) => watcher.observe(view));
}

// The engine is compressed in the page, too, and started when the words are on the screen.
async function startPlotly() {
  const code = new TextDecoder().decode(await unpacked("plotly"));
  document.head.append(make("script", {}, code));
}
