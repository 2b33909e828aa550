// Input of a quantisation: the result of attention, which lies in the first split of its parts.

@group(0) @binding(0) var<storage, read> parts: array<f32>;        // (tokens, splits, HEADS, HEAD_DIM + 2)

override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 2u;

fn value(token: u32, column: u32) -> f32 {
  let head = token * p.splits * HEADS + column / HEAD_DIM;
  return parts[head * (HEAD_DIM + 2u) + column % HEAD_DIM];
}
