// logits[t][row0 + row] = sum_c table[row][c] * x[t][c] for this window of rows
// In: x (rows, cols) f32, normed, from row `normed` on; table (rows, cols) in one of the dense types (common/dense_*.wgsl).
// Out: logits (tokens, vocab) f32.
// Grid: (ceil(rows / (WG / 16)), ceil(tokens / TILE)). Sixteen invocations a row, two adjacent columns a step.
// Reference: bitnet_cpu_kernels::dense::matmul. Test: tests/gpu/ops/.

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
  vocab: u32,
  place: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> damage: atomic<u32>;

override TILE: u32 = 1u; // tokens that share a reading of the weights, at most 4

fn kernel(group: vec3<u32>, lane: Lane) {
  let part = lane.index % 16u;
  let row = group.x * (WG / 16u) + lane.index / 16u;
  let base = p.table0 + min(row, p.rows - 1u) * p.row_bytes;
  let token_first = group.y * TILE;
  var total: array<f32, 4>;
  for (var c = 2u * part; c < p.cols; c += 32u) {
    let w = dense_pair(base, c);
    for (var t = 0u; t < TILE; t++) {
      let at = (p.normed + min(token_first + t, p.tokens - 1u)) * p.cols + c;
      total[t] += w.x * x[at] + w.y * x[at + 1u];
    }
  }
  for (var t = 0u; t < TILE; t++) {
    let sum = sum16(total[t], lane);
    if (part == 0u && row < p.rows && token_first + t < p.tokens) {
      note(sum);
      logits[(token_first + t) * p.vocab + p.row0 + row] = sum;
    }
  }
}
