// n = x / sqrt(mean(x^2) + eps) * weight; for each group: step = max(|n|, 1e-5) / 127; q = clamp(round_half_even(n / step)); sum = sum(q)
// In: x (tokens, in_stride) f32 or the result of attention (input_*.wgsl); weight (cols) f32.
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens, groups) step and sum.
// Grid: (1, tokens). One workgroup a token (quantize_row*.wgsl).
// Reference: bitnet_cpu_kernels::quantize::norm_quantize. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  words: u32,        // u32 of a row of xq: columns rounded up to 128, over 4
  in_stride: u32,    // f32 between tokens of the input
  in_offset: u32,
  groups: u32,       // scales of a token
  eps: f32,
  place: u32,        // see finite.wgsl
}

@group(0) @binding(1) var<storage, read> weight: array<f32>;       // (cols)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;

fn in_stride() -> u32 { return p.in_stride; }

fn in_offset() -> u32 { return p.in_offset; }

fn kernel(group: vec3<u32>, lane: Lane) { quantize_row(group.y, lane); }
