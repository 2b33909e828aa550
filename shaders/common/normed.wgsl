// A word of a row times its norm and the weights of that; `weight` is not read where there is no norm.

fn normed(token: u32, w: u32, norm: f32) -> vec4<f32> {
  let v = values(token, w);
  if (!NORM) { return v; }
  let c = 4u * w;
  var factor = vec4<f32>();
  if (whole_words()) {
    let at = min(c, cols() - 4u);
    factor = vec4(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u]);
  } else if (c + 4u <= cols()) {
    factor = vec4(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]);
  } else {
    for (var j = 0u; c + j < cols(); j++) { factor[j] = weight[c + j]; }
  }
  return v * norm * factor;
}
