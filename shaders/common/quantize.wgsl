// What both kinds of norm_quantize share: parameters and outputs.

struct Params {
  tokens: u32,
  start: u32,
  splits: u32,       // partial results a head, when merging attention
  first: u32,
  cols: u32,
  words: u32,        // u32 of a row of xq: columns rounded up to 128, over 4
  in_stride: u32,    // f32 between tokens of the input
  in_offset: u32,
  heads: u32,        // of the partial results, when merging attention
  head_dim: u32,
  eps: f32,
  place: u32,        // see finite.wgsl
}

struct Act { step: f32, sum: i32 }

override NORM: bool = true; // false: quantise without a norm, `weight` is not read
