// What the ternary kernels share: parameters, bindings and the epilogue. A dispatch multiplies one window of
// rows of up to three matrices stored one after the other (q, k, v), each with its own scale.
// Codes are I2_S as in the file: 128 columns in 32 bytes, column c in byte c % 32 at shift 6 - 2 * (c / 32);
// read as u32, `(word >> shift) & 0x03030303` is four consecutive codes 0, 1, 2.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  rows: u32,         // of this window
  row0: u32,         // first row of this window in the concatenated matrices
  row_quads: u32,    // vec4<u32> of a row of codes: 64 columns each
  codes0: u32,       // vec4<u32> of the window before its first row
  out_stride: u32,   // f32 between tokens of y
  out_offset: u32,   // f32 before row 0
  part1: u32,        // rows of the concatenation at which the second
  part2: u32,        // and the third matrix begin
  scale0: f32,
  scale1: f32,
  scale2: f32,
  place: u32,        // see finite.wgsl
}

@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (tokens, out_stride)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;

fn scale_of(row: u32) -> f32 {
  if (row < p.part1) { return p.scale0; }
  if (row < p.part2) { return p.scale1; }
  return p.scale2;
}
