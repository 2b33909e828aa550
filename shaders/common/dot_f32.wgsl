// Products of four codes (0..2, one per byte) with four int8, in f32, for devices without an int8 dot product.
// Every partial sum is an integer below 2^24 (at most 2 * 128 * 65535 columns), so f32 is exact in any order.
// Twin of dot_int8.wgsl; both give the same numbers, bit for bit.

alias Acc = f32;

// As in dot_int8.wgsl. Compilers keep codes as f32 for the next token: those of more parts would not fit in the registers.
const TOGETHER: u32 = 1u;

fn dot4(codes: u32, x: u32) -> Acc { return dot(vec4<f32>(unpack4xU8(codes)), vec4<f32>(unpack4xI8(x))); }

fn sum4(value: Acc, lane: Lane) -> Acc { return sum4_f32(value, lane); }

fn ternary(total: Acc, sum: i32) -> f32 { return total - f32(sum); }
