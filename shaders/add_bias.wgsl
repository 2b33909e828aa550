// x[t][i] += bias[i], in place
// In: x (tokens, stride) f32, the queries, keys and values; bias (cols) f32.
// Out: the first cols of each token.
// Grid: (ceil(cols / WG), tokens).
// Reference: bitnet_cpu_kernels::bias::add. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let column = group.x * WG + lane.index;
  if (column < p.cols) {
    x[group.y * p.stride + column] += bias[column];
  }
}
