// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Q8_0: 32 values in 34 bytes: f16 d, then 32 int8 q; value = d * q. Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 32u) * 34u;
  let d = unpack2x16float(u16_at(block)).x;
  let q = bitcast<i32>(u16_at(block + 2u + column % 32u));
  return d * vec2(f32(extractBits(q, 0u, 8u)), f32(extractBits(q, 8u, 8u)));
}
