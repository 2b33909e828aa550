// Two adjacent values of a row that begins at byte `row`; `column` is even.

fn dense_pair(row: u32, column: u32) -> vec2<f32> {
  let at = row / 4u + column;
  return vec2(bitcast<f32>(table[at]), bitcast<f32>(table[at + 1u]));
}
