// What a gated delta net reads: n = x / sqrt(mean(x^2) + eps) * weight, rotated and quantised as rotate_quantize.wgsl does it; and the products of n with `ssm_alpha` and `ssm_beta`
// In: x (tokens, in_stride) f32; weight (cols) f32: weights of the norm times s / sqrt(BLOCK), plain (cols): without these; table (2 * heads, cols) in one of the dense types.
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens, groups) step and sum; gates (tokens, 2 * heads) f32, alpha then beta.
// Grid: (tiles + heads, tokens). The first workgroups take a tile each, the others a row of alpha and its row of beta; each with the norm of the row.
// Reference: bitnet_cpu_kernels::quantize::norm_rotate_quantize, norm::rms_norm, dense::matmul. Test: tests/gpu/ops/delta.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,         // even
  words: u32,        // u32 of a row of xq: columns rounded up to 128, over 4
  in_stride: u32,    // f32 between tokens of the input
  in_offset: u32,
  groups: u32,       // scales of a token
  eps: f32,
  place: u32,        // see finite.wgsl
  heads: u32,        // of values
  row_bytes: u32,
}

@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;
@group(0) @binding(5) var<storage, read> plain: array<f32>;
@group(0) @binding(6) var<storage, read> table: array<u32>;
@group(0) @binding(7) var<storage, read_write> gates: array<f32>;

fn in_stride() -> u32 { return p.in_stride; }

fn in_offset() -> u32 { return p.in_offset; }

fn kernel(group: vec3<u32>, lane: Lane) {
  let token = group.y;
  let tiles = (words() + WG - 1u) / WG;
  let norm = norm_of_row(token, lane);
  if (group.x < tiles) {
    quantize_tile(token, group.x, norm, lane);
    return;
  }
  let head = group.x - tiles;
  let base = token * p.in_stride + p.in_offset;
  let alpha = head * p.row_bytes;
  let beta = alpha + p.heads * p.row_bytes;
  var sums = vec2<f32>();
  for (var c = 2u * lane.index; c < p.cols; c += 2u * WG) {
    let n = vec2(x[base + c] * norm * plain[c], x[base + c + 1u] * norm * plain[c + 1u]);
    sums += vec2(dot(dense_pair(alpha, c), n), dot(dense_pair(beta, c), n));
  }
  let a = reduce_add(sums.x, lane);
  let b = reduce_add(sums.y, lane);
  if (lane.index == 0u) {
    note(a);
    note(b);
    gates[2u * token * p.heads + head] = a;
    gates[(2u * token + 1u) * p.heads + head] = b;
  }
}
