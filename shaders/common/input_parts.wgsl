// Input of a quantisation: the result of attention, which lies in the first split of its parts.

@group(0) @binding(0) var<storage, read> parts: array<f32>;        // (tokens, splits, HEADS, HEAD_DIM + 2)

override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 2u;

fn place_of(token: u32, column: u32) -> u32 {
  return (token * p.splits * HEADS + column / HEAD_DIM) * (HEAD_DIM + 2u) + column % HEAD_DIM;
}

fn values(token: u32, w: u32) -> vec4<f32> {
  let c = 4u * w;
  if (HEAD_DIM % 4u == 0u && whole_words()) {
    let at = place_of(token, min(c, cols() - 4u));
    return select(vec4<f32>(), vec4(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]), c < cols());
  }
  if (HEAD_DIM % 4u == 0u && c + 4u <= cols()) {
    let at = place_of(token, c);
    return vec4(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]);
  }
  var v = vec4<f32>();
  for (var j = 0u; j < 4u && c + j < cols(); j++) { v[j] = parts[place_of(token, c + j)]; }
  return v;
}
