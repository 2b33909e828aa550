// Input of norm_quantize: a slot of activations.

@group(0) @binding(0) var<storage, read> x: array<f32>;            // (tokens, in_stride)

fn first_value(token: u32, column: u32) -> f32 { return x[token * p.in_stride + p.in_offset + column]; }

fn value(token: u32, column: u32) -> f32 { return x[token * p.in_stride + p.in_offset + column]; }
