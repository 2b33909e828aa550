// gate[t][i] = activate(gate[t][i]) * up[t][i], in place
// In: x (tokens, stride) f32 with gate at gate_offset and up at up_offset, cols each.
// Out: the gate part of x.
// Grid: (ceil(cols / WG), tokens).
// Reference: bitnet_cpu_kernels::gate::apply. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  stride: u32,
  gate_offset: u32,
  up_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let column = group.x * WG + lane.index;
  if (column < p.cols) {
    let at = group.y * p.stride + column;
    x[at + p.gate_offset] = activate(x[at + p.gate_offset]) * x[at + p.up_offset];
  }
}
