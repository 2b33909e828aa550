// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Q4_0: 32 values in 18 bytes: f16 d, then 16 bytes: value i is the low nibble of byte i, value 16 + i the high one;
// value = d * (q - 8). Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 32u) * 18u;
  let d = unpack2x16float(u16_at(block)).x;
  let i = column % 32u;
  let q = u16_at(block + 2u + i % 16u) >> ((i / 16u) * 4u);
  return d * (vec2(f32(q & 0xfu), f32((q >> 8u) & 0xfu)) - 8.0);
}
