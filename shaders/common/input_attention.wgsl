// Input of norm_quantize: partial results of attention_decode, merged on the first reading into the slot `x`:
// with m, l, o of each split: out = sum(e^(m - M) * o) / sum(e^(m - M) * l), M = max(m).
// An invocation later reads only what it wrote itself, so no barrier is needed.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;      // (tokens, in_stride)
@group(0) @binding(5) var<storage, read> parts: array<f32>;      // (tokens, splits, heads, head_dim + 2): o, m, l

fn first_value(token: u32, column: u32) -> f32 {
  let head = column / p.head_dim;
  let width = p.head_dim + 2u;
  let at = (token * p.splits * p.heads + head) * width;
  var most = parts[at + p.head_dim];
  for (var s = 1u; s < p.splits; s++) { most = max(most, parts[at + s * p.heads * width + p.head_dim]); }
  var above = 0.0;
  var below = 0.0;
  for (var s = 0u; s < p.splits; s++) {
    let b = at + s * p.heads * width;
    let share = exp(parts[b + p.head_dim] - most);
    above += share * parts[b + column % p.head_dim];
    below += share * parts[b + p.head_dim + 1u];
  }
  let merged = above / below;
  x[token * p.in_stride + p.in_offset + column] = merged;
  return merged;
}

fn value(token: u32, column: u32) -> f32 { return x[token * p.in_stride + p.in_offset + column]; }
