// A word of a row, normed, times the weights of the norm and the factors of the rotation, which are one array; 0 past the
// last. `weight` is not read where there is neither.

fn weighted(token: u32, w: u32, norm: f32) -> vec4<f32> {
  let c = 4u * w;
  if (c >= cols()) { return vec4<f32>(); }
  let v = values(token, w);
  if (!NORM && BLOCK == 1u) { return v; }
  return v * norm * vec4(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]);
}
