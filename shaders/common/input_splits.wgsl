// Input of a quantisation: the result of attention in its splits, merged as attention_merge.wgsl does it.

@group(0) @binding(0) var<storage, read> parts: array<f32>;        // (tokens, splits, HEADS, HEAD_DIM + 2): o, m and l

override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 4u; // a multiple of 4, so that a word is of one head

fn values(token: u32, w: u32) -> vec4<f32> {
  let c = 4u * w;
  let width = HEAD_DIM + 2u;
  let step = HEADS * width; // from split to split
  let head = token * p.splits * step + c / HEAD_DIM * width;
  let d = head + c % HEAD_DIM;
  if (c >= cols()) { return vec4<f32>(); }
  if (p.splits == 1u) { return vec4(parts[d], parts[d + 1u], parts[d + 2u], parts[d + 3u]); }
  var most = parts[head + HEAD_DIM];
  for (var s = 1u; s < p.splits; s++) { most = max(most, parts[head + s * step + HEAD_DIM]); }
  var above = vec4<f32>();
  var below = 0.0;
  for (var s = 0u; s < p.splits; s++) {
    let share = exp(parts[head + s * step + HEAD_DIM] - most);
    let at = d + s * step;
    above += share * vec4(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]);
    below += share * parts[head + s * step + HEAD_DIM + 1u];
  }
  return above / below;
}
