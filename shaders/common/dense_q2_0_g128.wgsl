// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Q2_0 in blocks of 128: 128 values in 34 bytes: f16 d, then the codes in order, value i in byte i / 4 at shift
// 2 * (i % 4); value = d * (code - 1). Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 128u) * 34u;
  let d = unpack2x16float(u16_at(block)).x;
  // Eight codes to a u16.
  let codes = u16_at(block + 2u + ((column % 128u) / 8u) * 2u) >> ((column % 8u) * 2u);
  return d * (vec2(f32(codes & 3u), f32((codes >> 2u) & 3u)) - 1.0);
}
