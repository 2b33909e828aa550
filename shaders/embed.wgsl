// out[t] = scale * table[id of token t] for the ids of this window of rows
// In: batch; table (rows, cols) in one of the dense types (common/dense_*.wgsl).
// Out: out (tokens, stride) f32.
// Grid: (ceil(cols / (2 * WG)), tokens). Two adjacent columns an invocation.
// Reference: bitnet_cpu_kernels::dense::gather. Test: tests/gpu/ops/.

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
  stride: u32,
  place: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read_write> batch: Batch;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let column = (group.x * WG + lane.index) * 2u;
  let row = batch.tokens[group.y].id - p.row0; // wraps to a huge number below row0
  if (row < p.rows && column < p.cols) {
    let pair = p.scale * dense_pair(p.table0 + row * p.row_bytes, column);
    note(pair.x);
    note(pair.y);
    out[group.y * p.stride + column] = pair.x;
    out[group.y * p.stride + column + 1u] = pair.y;
  }
}
