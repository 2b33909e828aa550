// Input of a quantisation: a slot of activations.

@group(0) @binding(0) var<storage, read> x: array<f32>;            // (tokens, in_stride)

fn value(token: u32, column: u32) -> f32 { return x[token * in_stride() + in_offset() + column]; }
