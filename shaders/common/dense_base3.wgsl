// Two adjacent values of a row that begins at byte `row`; `column` is even.
// Blocks of VALUES values with five of them in a byte: runs of VALUES / 8, / 16 and / 64 bytes, then f16 d. A byte is a
// fraction of 256 whose digits in base 3 are the codes of five values (four in the last run), as many values apart as the
// run has bytes; value = d * (code - 1). Blocks begin at even bytes.

// Values before the second and the third run; bytes of all runs.
const SECOND: u32 = 5u * (VALUES / 8u);
const THIRD: u32 = SECOND + 5u * (VALUES / 16u);
const CODES: u32 = VALUES / 8u + VALUES / 16u + VALUES / 64u;

fn u16_at(byte: u32) -> u32 { return extractBits(table[byte / 4u], (byte & 2u) * 8u, 16u); }

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let block = row + (column / VALUES) * (CODES + 2u);
  let d = unpack2x16float(u16_at(block + CODES)).x;
  let place = column % VALUES;
  // First value, first byte and bytes of the run.
  var run = vec3(0u, 0u, VALUES / 8u);
  if (place >= SECOND) { run = vec3(SECOND, VALUES / 8u, VALUES / 16u); }
  if (place >= THIRD) { run = vec3(THIRD, VALUES / 8u + VALUES / 16u, VALUES / 64u); }
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
