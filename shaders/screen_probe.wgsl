// threshold = min over the best chunks of the logit, in full, of the row that is the chunk's highest by the copy
// In: x (rows, cols) f32, normed; table (rows, cols) of a dense type; chunks, states.best (head_screen.wgsl, screen_cut.wgsl).
// Out: states.threshold.
// Grid: (chunks, tokens). One workgroup a chunk; most have nothing to do.
// Reference: bitnet_cpu_kernels::screen. Test: tests/gpu/ops/screen.rs.

@group(0) @binding(2) var<storage, read> chunks: array<Ranked>;
@group(0) @binding(3) var<storage, read_write> states: array<State>;

var<workgroup> probed: u32;

fn kernel(group: vec3<u32>, lane: Lane) {
  let chunk = chunks[group.y * p.chunks + group.x];
  let row = chunk.id - p.row0;           // below p.rows in this window only
  if (lane.index == 0u) { probed = select(0u, 1u, chunk.key >= atomicLoad(&states[group.y].best) && row < p.rows); }
  if (workgroupUniformLoad(&probed) == 0u) { return; }
  let logit = row_product(row, group.y, lane);
  // One that is not finite is noted when it is computed again, as every row is then.
  let finite = (bitcast<u32>(logit) & 0x7f800000u) != 0x7f800000u;
  if (lane.index == 0u) { atomicMin(&states[group.y].threshold, select(0u, key_of(logit), finite)); }
}
