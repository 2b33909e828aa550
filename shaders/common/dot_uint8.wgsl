// Products of four codes (0..2, one per byte) with four int8 by the unsigned product dot4U8Packed, for devices that have
// that one but no signed one, such as the Adreno 740: x + 128 is x with its highest bit turned over, and
// sum(code * x) = sum(code * (x + 128)) - sum(code * 128). Twin of dot_int8.wgsl; both give the same numbers, bit for bit.

alias Acc = i32;

const TOGETHER: u32 = 4u; // as in dot_int8.wgsl

fn dot4(codes: u32, x: u32) -> Acc {
  return i32(dot4U8Packed(codes, x ^ 0x80808080u)) - i32(dot4U8Packed(codes, 0x80808080u));
}

fn sum4(value: Acc, lane: Lane) -> Acc { return sum4_i32(value, lane); }

fn ternary(total: Acc, sum: i32) -> f32 { return f32(total - sum); }
