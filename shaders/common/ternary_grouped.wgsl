// What the ternary kernels with scales in a buffer share: parameters, bindings and the scale of a group. A dispatch
// multiplies one window of rows of up to three matrices stored one after the other (q, k, v).
// Codes as in ternary.wgsl, groups as in group.wgsl.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  rows: u32,         // of this window
  row0: u32,         // first row of this window in the concatenated matrices
  row_quads: u32,    // vec4<u32> of a row of codes: 64 columns each
  codes0: u32,       // vec4<u32> of the window before its first row
  scales0: u32,      // scales of their window before its first row
  groups: u32,       // scales of a row, and of a token
  out_stride: u32,   // f32 between tokens of y
  out_offset: u32,   // f32 before row 0
  place: u32,        // see finite.wgsl
}

@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (tokens, out_stride)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;         // (rows, groups) f16, or (rows) f32

// `row` counts in the window.
fn scale_at(row: u32, group: u32) -> f32 {
  let i = p.scales0 + row * p.groups + group;
  if (GROUP == 0u) { return bitcast<f32>(scales[i]); }
  return unpack2x16float(scales[i / 2u] >> ((i & 1u) * 16u)).x;
}
