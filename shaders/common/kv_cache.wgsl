// Key/value cache elements, two at a time: f16 pairs packed in one word, or f32 words, by pipeline constants.
// Index = pair number: element index / 2; layout (position, kv_head, head_dim).
// Packing is written out because pack2x16float may round towards zero and need not give infinity above 65504:
// here it is round half to even, as the CPU does.

override K_F32: bool = false;
override V_F32: bool = false;

fn f16_bits(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }          // NaN
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }         // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                   // subnormal in f16: a multiple of 2^-24
    let shift = 126u - (magnitude >> 23u);                         // 14 for the largest, more for smaller ones
    if (shift > 24u) { return sign; }
    let mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
    let half = 1u << (shift - 1u);
    let rest = mantissa & ((half << 1u) - 1u);
    var result = mantissa >> shift;
    if (rest > half || (rest == half && (result & 1u) == 1u)) { result += 1u; }
    return sign | result;
  }
  let odd = (magnitude >> 13u) & 1u;
  return sign | ((magnitude - 0x38000000u + 0x0fffu + odd) >> 13u);
}

fn f16_pack(pair: vec2<f32>) -> u32 { return f16_bits(pair.x) | (f16_bits(pair.y) << 16u); }

fn load_k(index: u32) -> vec2<f32> {
  if (K_F32) { return vec2(bitcast<f32>(k_cache[2u * index]), bitcast<f32>(k_cache[2u * index + 1u])); }
  return unpack2x16float(k_cache[index]);
}

fn load_v(index: u32) -> vec2<f32> {
  if (V_F32) { return vec2(bitcast<f32>(v_cache[2u * index]), bitcast<f32>(v_cache[2u * index + 1u])); }
  return unpack2x16float(v_cache[index]);
}
