// The activations of a ternary product: quantised before by norm_quantize.wgsl. Twin of acts_folded.wgsl.

struct Act { step: f32, sum: i32 }

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;    // (rows, row_quads)
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;        // (tokens, 4 * row_quads), 16 int8 each
@group(0) @binding(2) var<storage, read> acts: array<Act>;           // (tokens, groups)

const ROUNDS: u32 = 1u;

fn prepare(token: u32, lane: Lane) {}

fn x_of(token: u32, i: u32) -> vec4<u32> { return x[token * p.row_quads * 4u + i]; }

fn act_of(token: u32, groups: u32, group: u32) -> Act { return acts[token * groups + group]; }
