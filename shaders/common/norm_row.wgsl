// The norm of a row, by words as in quantize.wgsl. `values` (input_*.wgsl), `cols`, `divisor`, `words` and `eps` say what
// the row is.

override NORM: bool = true; // false: without a norm

// Of this invocation's words; those past the last are 0, so that all invocations take as many turns: a compiler that knows
// the row's length spells them out and reads the words together. NaN and infinity of any value end up in the sum, which is checked instead of each.
fn squares_of_row(token: u32, lane: Lane) -> f32 {
  var squares = 0.0;
  for (var base = 0u; base < words(); base += WG) {
    let v = values(token, base + lane.index);
    squares += dot(v, v);
  }
  note(squares);
  return squares;
}

// 1 / sqrt(mean(x^2) + eps) of the row. `divisor` is `cols` as a compiler must not know it: by a number that it knows it would
// multiply with the reciprocal, and the twins of a kernel would part in the last bit.
fn norm_of_row(token: u32, lane: Lane) -> f32 {
  let squares = squares_of_row(token, lane);
  if (!NORM) { return 1.0; }
  return 1.0 / sqrt(reduce_add(squares, lane) / f32(divisor()) + eps());
}
