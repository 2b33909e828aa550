// What kernels that quantise share. The pieces after it define what a row is and where results go:
// `value` (input_*.wgsl), `cols`, `words`, `eps`, `put_word` and `put_act`.

struct Act { step: f32, sum: i32 }

override NORM: bool = true; // false: quantise without a norm, `weight` is not read

fn normed(token: u32, column: u32, norm: f32) -> f32 {
  let v = value(token, column);
  if (!NORM) { return v; }
  return v * norm * weight[column];
}
