// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Q6_K: 256 values in 210 bytes: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales, f16 d.
// Each half of the block has four runs of 32: run r takes nibble r / 2 of low byte 32 * (r % 2) + l and the bit
// pair r of high byte l; value = d * scale[l / 16 + 2 * r] * (q - 32). Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 256u) * 210u;
  let half = (column / 128u) % 2u;
  let run = (column / 32u) % 4u;
  let l = column % 32u;
  let low = u16_at(block + half * 64u + (run % 2u) * 32u + l) >> ((run / 2u) * 4u);
  let high = u16_at(block + 128u + half * 32u + l) >> (run * 2u);
  let q = (low & 0x0f0fu) | ((high & 0x0303u) << 4u);
  let scale_at = block + 192u + half * 8u + l / 16u + 2u * run;
  let scale = extractBits(bitcast<i32>(table[scale_at / 4u]), (scale_at % 4u) * 8u, 8u);
  let d = unpack2x16float(u16_at(block + 208u)).x * f32(scale);
  return d * (vec2(f32(q & 0xffu), f32(q >> 8u)) - 32.0);
}
