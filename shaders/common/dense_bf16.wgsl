// Two adjacent values of a row that begins at byte `row`; `column` is even. bf16 is the upper half of an f32.

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let word = table[(row + 2u * column) / 4u];
  return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}
