// out[normed + i] = H (s o n) (common/rotate.wgsl) with n = x[first + i] / sqrt(mean(x[first + i]^2) + eps) * weight; INVERSE: s o (H x[i])
// In: x (tokens, cols) f32; weight (cols) f32: weights of the norm times s / sqrt(BLOCK).
// Out: out (rows, cols) f32, from row `normed` on.
// Grid: (ceil(cols / (4 * WG)), tokens). One workgroup a tile.
// Reference: bitnet_cpu_kernels::rotate::forward, rotate::inverse. Test: tests/gpu/ops/rotate.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,         // a multiple of 4
  in_stride: u32,    // as cols
  in_offset: u32,
  eps: f32,
  place: u32,        // see finite.wgsl
}

override INVERSE: bool = false;

@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> damage: atomic<u32>;

fn cols() -> u32 { return p.cols; }

fn divisor() -> u32 { return p.cols; }

fn words() -> u32 { return p.cols / 4u; }

fn whole_words() -> bool { return true; }

fn eps() -> f32 { return p.eps; }

fn in_stride() -> u32 { return p.in_stride; }

fn in_offset() -> u32 { return p.in_offset; }

fn source(token: u32, w: u32, norm: f32, lane: Lane) -> vec4<f32> {
  if (!INVERSE) { return weighted(token, w, norm); }
  if (w >= words()) { return vec4<f32>(); }
  return values(token, w);
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let row = p.first + group.y;
  let w = group.x * WG + lane.index;
  let norm = norm_of_row(row, lane);
  var v = rotated_word(row, w, norm, lane);
  if (w < words()) {
    let c = 4u * w;
    if (INVERSE) { v *= vec4(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]); }
    note(dot(abs(v), vec4(1.0)));
    let to = (p.normed + group.y) * p.cols + c;
    out[to] = v.x;
    out[to + 1u] = v.y;
    out[to + 2u] = v.z;
    out[to + 3u] = v.w;
  }
}
