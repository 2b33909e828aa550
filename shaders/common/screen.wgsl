// What the kernels of the screened head tell each other, and each step's screen_query.wgsl clears.

struct State {
  exact: atomic<u32>,     // rows whose logits were computed in full
  best: atomic<u32>,      // the key of the chunk, counted from the best, whose row is the last one to be probed
  threshold: atomic<u32>, // the key of a logit that as many rows reach as are wanted
}

// The token in 16 bits, n ~ step * (256 * high + low), and what the bounds need of it.
struct Query {
  step: f32,
  of_error: f32,     // what |w - copy of w|
  of_norm: f32,      // and |w| are multiplied by in the bound
  norm: f32,         // at least |n|
  high: i32,         // sums of the planes
  low: i32,
  useless: u32,      // 1: n is too small or too large for the bounds, which hold nothing then
}

// Of upper bounds: what is not finite says nothing, and keeps its row.
fn upper_key(upper: f32) -> u32 {
  if ((bitcast<u32>(upper) & 0x7f800000u) == 0x7f800000u) { return 0xffffffffu; }
  return key_of(upper);
}
