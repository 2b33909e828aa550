// Two adjacent values of a row that begins at byte `row`; `column` is even.
// TQ2_0: 256 values in 66 bytes: 64 of codes, then f16 d: value i is in byte 32 * (i / 128) + i % 32 at shift
// 2 * (i % 128 / 32); value = d * (code - 1). Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 256u) * 66u;
  let d = unpack2x16float(u16_at(block + 64u)).x;
  let codes = u16_at(block + ((column / 128u) % 2u) * 32u + column % 32u) >> (((column / 32u) % 4u) * 2u);
  return d * (vec2(f32(codes & 3u), f32((codes >> 8u) & 3u)) - 1.0);
}
