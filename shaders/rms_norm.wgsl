// out[normed + i] = x[first + i] / sqrt(mean(x[first + i]^2) + eps) * weight, or that added to it
// In: x (tokens, stride) f32; weight (cols) f32.
// Out: out (rows, cols) f32, from row `normed` on.
// Grid: (1, tokens wanted). One workgroup a token.
// Reference: bitnet_cpu_kernels::norm::rms_norm. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  stride: u32,
  eps: f32,
  place: u32,
}

override ADD: u32 = 0u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> damage: atomic<u32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let base = (p.first + group.y) * p.stride;
  let to = (p.normed + group.y) * p.cols;
  let norm = inverse_rms(base, lane);
  for (var c = lane.index; c < p.cols; c += WG) {
    var n = x[base + c] * norm * weight[c];
    if (ADD == 1u) { n += out[to + c]; }
    note(n);
    out[to + c] = n;
  }
}
