// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Q4_K: 256 values in 144 bytes: f16 d, f16 dmin, 12 bytes of scales, 128 of values. Eight runs of 32: runs 2p and
// 2p + 1 are the low and the high nibbles of bytes 32p .. 32p + 31; value = d * scale * q - dmin * minimum. The first
// four runs have 6 bits of each in scale bytes 0..3 and 4..7, the others four bits of both in bytes 8..11 and the upper
// two in the upper bits of the first eight. Blocks begin at multiples of 4 bytes where rows do, and at even ones.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn byte_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 3u) * 8u, 8u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 256u) * 144u;
  let run = (column / 32u) % 8u;
  let scales = block + 4u;
  var scale = byte_at(scales + run % 4u);
  var minimum = byte_at(scales + 4u + run % 4u);
  if (run < 4u) {
    scale = scale & 63u;
    minimum = minimum & 63u;
  } else {
    let both = byte_at(scales + 4u + run);
    scale = (both & 15u) | ((scale >> 6u) << 4u);
    minimum = (both >> 4u) | ((minimum >> 6u) << 4u);
  }
  let factor = unpack2x16float(u16_at(block)).x * f32(scale);
  let least = unpack2x16float(u16_at(block + 2u)).x * f32(minimum);
  let q = u16_at(block + 16u + (run / 2u) * 32u + column % 32u) >> ((run & 1u) * 4u);
  return factor * vec2(f32(q & 0xfu), f32((q >> 8u) & 0xfu)) - least;
}
