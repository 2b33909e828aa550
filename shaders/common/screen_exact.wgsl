// What the kernels share that compute single rows of the head in full: a window of its rows, and the tokens.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  rows: u32,         // of this window
  row0: u32,         // the first row of this window
  cols: u32,
  row_bytes: u32,
  table0: u32,       // bytes of the window before its first row
  chunks: u32,       // of all windows
  vocab: u32,
  place: u32,        // see finite.wgsl
}

@group(0) @binding(0) var<storage, read> x: array<f32>;       // (rows, cols), normed, from row `normed` on
@group(0) @binding(1) var<storage, read> table: array<u32>;   // (rows, row_bytes)

// The product of a row of the window with a token, by sixteen invocations, in the order of additions of head.wgsl.
fn row_product(row: u32, token: u32, lane: Lane) -> f32 {
  let base = p.table0 + row * p.row_bytes;
  let x_base = (p.normed + token) * p.cols;
  var total = 0.0;
  for (var c = 2u * (lane.index % 16u); c < p.cols; c += 32u) {
    let w = dense_pair(base, c);
    total += w.x * x[x_base + c] + w.y * x[x_base + c + 1u];
  }
  return sum16(total, lane);
}
