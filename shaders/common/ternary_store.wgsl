// The end of every ternary product: into y, checked.

override ADD: bool = false; // add to y (residual) instead of overwriting it

// `row` counts in the concatenation.
fn store(token: u32, row: u32, value: f32) {
  let at = token * p.out_stride + p.out_offset + row;
  var result = value;
  if (ADD) { result += y[at]; }
  note(result);
  y[at] = result;
}
