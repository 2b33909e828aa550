// n = H (s o (x / sqrt(mean(x^2) + eps) * weight)) (common/rotate.wgsl), quantised by groups of columns as norm_quantize.wgsl does it
// In: x (tokens, in_stride) f32, or attention's splits (input_*.wgsl), times sigmoid of `gates`; weight (cols) f32: weights of the norm times s / sqrt(BLOCK).
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens, groups) step and sum.
// Grid: (ceil(words / WG), tokens). One workgroup a tile of 4 * WG columns (quantize_row_rotated.wgsl), each with the norm of the row.
// Reference: bitnet_cpu_kernels::quantize::norm_rotate_quantize, gate::apply. Test: tests/gpu/ops/rotate.rs.

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
  gate_stride: u32,  // f32 between tokens of the gates
}

@group(0) @binding(1) var<storage, read> weight: array<f32>;       // (cols)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;
@group(0) @binding(5) var<storage, read> gates: array<f32>;        // (tokens, gate_stride): of each head its queries, then its gates

override GATE_DIM: u32 = 0u; // width of a head whose values have gates, a multiple of 4; 0: no gates

fn in_stride() -> u32 { return p.in_stride; }

fn in_offset() -> u32 { return p.in_offset; }

fn open(token: u32, c: u32) -> vec4<f32> {
  let width = max(GATE_DIM, 4u);
  let at = token * p.gate_stride + (2u * (c / width) + 1u) * width + c % width;
  let gate = vec4(gates[at], gates[at + 1u], gates[at + 2u], gates[at + 3u]);
  return 1.0 / (1.0 + exp(min(-gate, vec4(88.0))));
}

fn source(token: u32, w: u32, norm: f32, lane: Lane) -> vec4<f32> {
  let v = weighted(token, w, norm);
  if (GATE_DIM == 0u || 4u * w >= cols()) { return v; }
  return v * open(token, 4u * w);
}

fn kernel(group: vec3<u32>, lane: Lane) { quantize_tile(group.y, group.x, norm_of_row(group.y, lane), lane); }
