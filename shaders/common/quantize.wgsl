// What kernels that quantise share. The pieces after it define what a row is and where results go:
// `values` (input_*.wgsl), `cols`, `words`, `eps`, `put_word` and `put_act`.
// Four adjacent columns at a time, "word" w has the columns 4 w to 4 w + 3; columns past the last are 0.

struct Act { step: f32, sum: i32 }

override NORM: bool = true; // false: quantise without a norm, `weight` is not read

// Of this invocation's words. NaN and infinity of any value end up in the sum, which is checked instead of each.
fn squares_of_row(token: u32, lane: Lane) -> f32 {
  var squares = 0.0;
  for (var w = lane.index; w < words(); w += WG) {
    let v = values(token, w);
    squares += dot(v, v);
  }
  note(squares);
  return squares;
}

// 1 / sqrt(mean(x^2) + eps) of the row.
fn norm_of_row(token: u32, lane: Lane) -> f32 {
  let squares = squares_of_row(token, lane);
  if (!NORM) { return 1.0; }
  return 1.0 / sqrt(reduce_add(squares, lane) / f32(cols()) + eps());
}

fn normed(token: u32, w: u32, norm: f32) -> vec4<f32> {
  let v = values(token, w);
  if (!NORM) { return v; }
  let c = 4u * w;
  var factor = vec4<f32>();
  if (c + 4u <= cols()) {
    factor = vec4(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]);
  } else {
    for (var j = 0u; c + j < cols(); j++) { factor[j] = weight[c + j]; }
  }
  return v * norm * factor;
}

fn largest(n: vec4<f32>) -> f32 {
  let a = abs(n);
  return max(max(a.x, a.y), max(a.z, a.w));
}

fn quantised(n: vec4<f32>, top: f32) -> vec4<i32> {
  return vec4<i32>(clamp(round(n * (127.0 / top)), vec4(-128.0), vec4(127.0)));
}
