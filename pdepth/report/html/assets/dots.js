// Dots on a canvas, put into its pixels one by one: 60,000 in some milliseconds, without a GPU.

// The pixels that a shape covers around its middle: across, down, and how much of it, one after the other.
function stamp(radius, covers) {
  const pixels = [];
  const reach = Math.ceil(radius + 1);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const cover = Math.max(0, Math.min(1, covers(Math.abs(x), Math.abs(y))));
      if (cover > 0.05) pixels.push(x, y, cover);
    }
  }
  return Float32Array.from(pixels);
}
const disc = (radius) => stamp(radius, (x, y) => radius + 0.5 - Math.hypot(x, y));
const cross = (radius, width) => stamp(radius + 1, (x, y) => Math.min(width - Math.abs(x - y), radius + 1.5 - Math.max(x, y)));
const ring = (radius, width) => stamp(radius + width, (x, y) => width / 2 + 0.5 - Math.abs(Math.hypot(x, y) - radius));

const rgbOf = (css) => css.match(/[\d.]+/g).slice(0, 3).map(Number);

// The pixels of a canvas of width x height, all of one colour.
function pixelsOf(context, width, height, [r, g, b]) {
  const image = context.createImageData(width, height);
  new Uint32Array(image.data.buffer).fill((255 << 24) | (b << 16) | (g << 8) | r); // little-endian, as all browsers are
  return image;
}

// Blend a stamp into pixels at whole places x, y.
function putStamp({ data, width, height }, x, y, pixels, rgb, opacity) {
  const r = rgb[0], g = rgb[1], b = rgb[2];
  for (let i = 0; i < pixels.length; i += 3) {
    const px = x + pixels[i], py = y + pixels[i + 1];
    if (px < 0 || py < 0 || px >= width || py >= height) continue;
    const at = 4 * (py * width + px);
    const share = pixels[i + 2] * opacity;
    data[at] += (r - data[at]) * share;
    data[at + 1] += (g - data[at + 1]) * share;
    data[at + 2] += (b - data[at + 2]) * share;
  }
}

// Whether a place is inside of a polygon of [x, y]: an even number of edges to its right is outside.
function isInside(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const ax = polygon[i][0], ay = polygon[i][1], bx = polygon[j][0], by = polygon[j][1];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// Colours of a column's values, for dots: those of classes and choices apart, those of numbers in order.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const STEPS = 64;

function coloursOf(column, isDark) {
  if (column.name === "right") return [colour("bad"), colour("good")].map(rgbOf);
  if (!isCoded(column)) return Array.from({ length: STEPS }, (_, i) => rampAt((isDark ? 0.12 : 0) + (0.88 * i) / (STEPS - 1)));
  const names = column.kind === "choice" ? column.choices : header.classes;
  const hues = names.map((name, i) =>
    // no name: nothing decided
    name ? hslToRgb((360 * i) / names.length, 0.7, (isDark ? 0.52 : 0.36) + 0.2 * (i % 2)) : rgbOf(colour("faint")));
  return [...hues, rgbOf(colour("faint"))]; // the missing
}

// As CSS defines it: https://www.w3.org/TR/css-color-4/#hsl-to-rgb. To ask the browser, class by class, would be slow.
function hslToRgb(hue, saturation, lightness) {
  const spread = saturation * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - spread * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

function rampAt(share) {
  const at = Math.min(share * (RAMP.length - 1), RAMP.length - 1.001);
  const [low, high] = [RAMP[Math.floor(at)], RAMP[Math.floor(at) + 1]];
  return low.map((value, i) => Math.round(value + (high[i] - value) * (at % 1)));
}

// The least and the greatest number of a column.
function rangeOf({ values }) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

// For each row its place among the colours.
function shadesBy(column) {
  if (isCoded(column)) return (row) => Math.min(column.values[row], (column.kind === "choice" ? column.choices : header.classes).length);
  const [least, most] = rangeOf(column);
  return (row) => Math.round(((STEPS - 1) * (column.values[row] - least)) / (most - least || 1)) || 0;
}
