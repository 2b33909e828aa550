// Input of a quantisation: a slot of activations.

@group(0) @binding(0) var<storage, read> x: array<f32>;            // (tokens, in_stride)

fn values(token: u32, w: u32) -> vec4<f32> {
  let c = 4u * w;
  if (whole_words()) {
    let place = token * in_stride() + in_offset() + min(c, cols() - 4u);
    return select(vec4<f32>(), vec4(x[place], x[place + 1u], x[place + 2u], x[place + 3u]), c < cols());
  }
  let at = token * in_stride() + in_offset() + c;
  if (c + 4u <= cols()) { return vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]); }
  var v = vec4<f32>();
  for (var j = 0u; c + j < cols(); j++) { v[j] = x[at + j]; }
  return v;
}
