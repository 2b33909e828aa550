// The norm of a row, by words as in quantize.wgsl. `values` (input_*.wgsl), `cols`, `words` and `eps` say what the row is.

override NORM: bool = true; // false: without a norm

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
