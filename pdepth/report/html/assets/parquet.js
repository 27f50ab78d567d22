// A Parquet file of one column: https://parquet.apache.org/docs/file-format/, plain and uncompressed.

// Thrift's compact protocol: values as [type, bytes].
function varint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return [...bytes, value];
}
const i32 = (value) => [5, varint(2 * value)]; // zigzag, of no negative numbers
const i64 = (value) => [6, varint(2 * value)];
function text(value) {
  const bytes = new TextEncoder().encode(value);
  return [8, [...varint(bytes.length), ...bytes]];
}
const list = (...items) => [9, [16 * items.length + items[0][0], ...items.flatMap(([, bytes]) => bytes)]];
function struct(fields) {
  let last = 0;
  const bytes = Object.entries(fields).flatMap(([id, [type, content]]) => {
    const head = 16 * (id - last) + type;
    last = Number(id);
    return [head, ...content];
  });
  return [12, [...bytes, 0]];
}

// name: of the column; column: whole numbers or texts.
function parquetFile(name, column) {
  const isText = typeof column[0] === "string";
  const [INT64, BYTE_ARRAY, UTF8, REQUIRED, PLAIN, RLE, DATA_PAGE, UNCOMPRESSED] = [2, 6, 0, 0, 0, 3, 0, 0];
  const values = isText ? plainTexts(column) : new Uint8Array(BigInt64Array.from(column, (value) => BigInt(value)).buffer);
  const [, page] = struct({
    1: i32(DATA_PAGE), 2: i32(values.length), 3: i32(values.length),
    5: struct({ 1: i32(column.length), 2: i32(PLAIN), 3: i32(RLE), 4: i32(RLE) }),
  });
  const type = i32(isText ? BYTE_ARRAY : INT64);
  const size = i64(page.length + values.length);
  const chunk = struct({
    2: i64(4),
    3: struct({
      1: type, 2: list(i32(PLAIN)), 3: list(text(name)), 4: i32(UNCOMPRESSED), 5: i64(column.length), 6: size, 7: size, 9: i64(4),
    }),
  });
  const [, footer] = struct({
    1: i32(1),
    2: list(struct({ 4: text("schema"), 5: i32(1) }), struct({ 1: type, 3: i32(REQUIRED), 4: text(name), ...(isText && { 6: i32(UTF8) }) })),
    3: i64(column.length),
    4: list(struct({ 1: list(chunk), 2: size, 3: i64(column.length) })),
    6: text("pdepth"),
  });
  const length = new Uint8Array(Uint32Array.of(footer.length).buffer);
  return new Blob(["PAR1", new Uint8Array(page), values, new Uint8Array(footer), length, "PAR1"]);
}

// Each with its length before it.
function plainTexts(column) {
  const texts = column.map((value) => new TextEncoder().encode(value));
  const bytes = new Uint8Array(texts.reduce((sum, each) => sum + 4 + each.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const each of texts) {
    view.setUint32(at, each.length, true);
    bytes.set(each, at + 4);
    at += 4 + each.length;
  }
  return bytes;
}
