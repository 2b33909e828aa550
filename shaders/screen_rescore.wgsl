// logits[row0 + row] = sum_c table[row][c] * x[c] where the row may be among the highest, else the lowest f32
// In: x (rows, cols) f32, normed; table (rows, cols) in one of the dense types; uppers (tokens, vocab), states.threshold.
// Out: logits (tokens, vocab) f32; states.exact.
// Grid: (ceil(rows / WG), tokens). One workgroup for WG rows: it lists those that remain, and computes WG / 16 of them at a time.
// Reference: bitnet_cpu_kernels::dense::matmul. Test: tests/gpu/ops/screen.rs.

@group(0) @binding(2) var<storage, read> uppers: array<u32>;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;
@group(0) @binding(4) var<storage, read_write> states: array<State>;
@group(0) @binding(5) var<storage, read_write> damage: atomic<u32>;

var<workgroup> rows: array<u32, WG>;
var<workgroup> listed: atomic<u32>;
var<workgroup> remaining: u32;

fn kernel(group: vec3<u32>, lane: Lane) {
  let own = group.x * WG + lane.index;
  let row0 = group.y * p.vocab + p.row0;
  if (lane.index == 0u) { atomicStore(&listed, 0u); }
  workgroupBarrier();
  if (own < p.rows) {
    if (uppers[row0 + own] >= atomicLoad(&states[group.y].threshold)) {
      rows[atomicAdd(&listed, 1u)] = own;
    } else {
      logits[row0 + own] = bitcast<f32>(0xff7fffffu);
    }
  }
  workgroupBarrier();
  if (lane.index == 0u) {
    remaining = atomicLoad(&listed);
    atomicAdd(&states[group.y].exact, remaining);
  }
  let count = workgroupUniformLoad(&remaining);
  for (var at = 0u; at < count; at += WG / 16u) {
    let n = at + lane.index / 16u;
    let row = rows[min(n, count - 1u)];
    let logit = row_product(row, group.y, lane);
    if (lane.index % 16u == 0u && n < count) {
      note(logit);
      logits[row0 + row] = logit;
    }
  }
}
