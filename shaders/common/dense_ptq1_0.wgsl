// Two adjacent values of a row that begins at byte `row`; `column` is even.
// PTQ1_0: 128 values in 28 bytes: runs of 16, 8 and 2 bytes, then f16 d. A byte is a fraction of 256 whose digits in base 3
// are the codes of five values (four in the last run), as many values apart as the run has bytes; value = d * (code - 1).
// Blocks begin at even bytes.

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / 128u) * 28u;
  let d = unpack2x16float(u16_at(block + 26u)).x;
  let place = column % 128u;
  let run = select(select(vec3(0u, 0u, 16u), vec3(80u, 16u, 8u), place >= 80u), vec3(120u, 24u, 2u), place >= 120u);
  let digit = (place - run.x) / run.z;
  let bytes = u16_at(block + run.y + (place - run.x) % run.z);
  // 3^digit takes the digits in front away.
  let power = power_of_3(digit);
  let fractions = (vec2(bytes & 255u, bytes >> 8u) * power) & vec2(255u);
  return d * (vec2<f32>((fractions * 3u) >> vec2(8u)) - 1.0);
}

fn power_of_3(digit: u32) -> u32 {
  let low = select(select(1u, 3u, digit == 1u), 9u, digit == 2u);
  return select(select(low, 27u, digit == 3u), 81u, digit == 4u);
}
