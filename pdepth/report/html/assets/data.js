// The data of the page: columns as typed arrays, by name.

const byId = (id) => document.getElementById(id);
const header = JSON.parse(byId("header").textContent);
const columns = new Map();

// Thumbnails of the examples, and of the support where its rows are others: base64 of files, by row.
const albums = JSON.parse(byId("thumbnails").textContent);
for (const [name, embedded] of Object.entries(albums)) {
  const album = header.albums[name];
  albums[name] = { ...album, embedded, unreadable: new Set(album.unreadable) };
}
const { embedded, unreadable } = albums.examples;
const hasImages = Object.keys(embedded).length > 0 || unreadable.size > 0 || Boolean(header.served && albums.examples.folder);

// An element with attributes and children; strings become text, so no data becomes HTML.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// What the server has under a name.
async function ask(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer;
}

// A compressed part of the page, once.
async function unpack(id) {
  const element = byId(id);
  const unzip = (stream) => new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  if (header.served) return unzip((await ask(id)).body);
  const text = atob(element.textContent);
  element.remove(); // frees its memory
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return unzip(new Blob([bytes]).stream());
}

const types = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f8: Float64Array };

async function readColumns() {
  const buffer = await unpack("data");
  let begin = 0;
  for (const entry of header.columns) {
    const bytes = buffer.slice(begin, begin + entry.length);
    const values =
      entry.type === "json" ? JSON.parse(new TextDecoder().decode(bytes)) : new types[entry.type](bytes);
    columns.set(entry.name, { ...entry, values });
    begin += Math.ceil(entry.length / 8) * 8;
  }
}

// The name of a code of a class or choice column; "" where it is missing.
function nameOf(column, code) {
  return column.kind === "choice" ? column.choices[code] : (header.classes[code]?.name ?? "");
}

const isCoded = (column) => column.kind === "class" || column.kind === "choice";
const isNumeric = (column) => column.kind === "whole" || column.kind === "number";

function displayText(column, row) {
  const value = column.values[row];
  if (isCoded(column)) return nameOf(column, value);
  if (column.kind === "number") return Number.isNaN(value) ? "" : value.toFixed(column.digits);
  if (column.name === header.depth && header.probes[value] === "undefined") return "undefined";
  return String(value);
}

// A value as it is written into a CSV file.
function csvValue(column, row) {
  const value = column.values[row];
  if (column.kind === "class") return header.classes[value]?.value ?? "";
  if (column.kind === "choice") return column.choices[value];
  return Number.isNaN(value) ? "" : String(value);
}

const number = (value) => value.toLocaleString("en");
const percent = (count, total) => `${((100 * count) / total).toFixed(1)} %`;
const idColumn = () => columns.get(header.columns[0].name);
const exampleName = (row) => `${idColumn().title} ${displayText(idColumn(), row)}`;

// Where values are not 0.
function placesOf(values) {
  const places = [];
  for (let i = 0; i < values.length; i++) if (values[i]) places.push(i);
  return places;
}

// A pseudo-random number in 0..1 for each example, always the same: to move dots apart.
function jitter(row, salt) {
  let h = Math.imul(row + 1, 0x9e3779b1) ^ Math.imul(salt + 1, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return ((h ^ (h >>> 15)) >>> 0) / 4294967296;
}
