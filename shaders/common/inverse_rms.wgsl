// 1 / sqrt(mean(x[base + i]^2) + eps) over the columns of a row of `x`, in every invocation.

fn inverse_rms(base: u32, lane: Lane) -> f32 {
  var squares = 0.0;
  for (var c = lane.index; c < p.cols; c += WG) {
    let v = x[base + c];
    squares += v * v;
  }
  return 1.0 / sqrt(reduce_add(squares, lane) / f32(p.cols) + p.eps);
}
