// Products of four codes (0..2, one per byte) with four int8, in integers: dot4I8Packed is one instruction
// on DP4A hardware. Twin of dot_f32.wgsl; both give the same numbers, bit for bit.

alias Acc = i32;

const TOGETHER: u32 = 4u; // parts of a quad of codes that ternary_few takes for one token before the next

fn dot4(codes: u32, x: u32) -> Acc { return dot4I8Packed(codes, x); }

fn sum4(value: Acc, lane: Lane) -> Acc { return sum4_i32(value, lane); }

// sum((code - 1) * x) = sum(code * x) - sum(x); below 2^24, so the conversion is exact.
fn ternary(total: Acc, sum: i32) -> f32 { return f32(total - sum); }
