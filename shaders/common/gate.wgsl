// Feed-forward activation, chosen by a pipeline constant: 0 = none, 1 = relu(x)^2, 2 = silu(x) = x / (1 + e^-x),
// 3 = gelu(x) = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).

override GATE: u32 = 0u;

fn activate(x: f32) -> f32 {
  if (GATE == 1u) { let r = max(x, 0.0); return r * r; }
  // e^88 is the largest power f32 holds: beyond it x / (1 + e^-x) is 0 to f32 accuracy anyway.
  if (GATE == 2u) { return x / (1.0 + exp(min(-x, 88.0))); }
  if (GATE == 3u) { return x / (1.0 + exp(min(-1.5957691 * x * (1.0 + 0.044715 * x * x), 88.0))); }
  return x;
}
