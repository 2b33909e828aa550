// The key/value cache, read two elements at a time. Its rows are heads at a position, counted (position, kv_head), the
// positions of one sequence after those of another; where a binding does not hold all sequences, a dispatch has a window
// of them and leaves the tokens of others alone. By pipeline constant a row has pairs of f16 packed in words (0), f32
// words (1) or q8_0 (2): four int8 codes a word, then two f16 d a word, one for each block of 32 elements, which are d *
// code.
// Packing is written out because pack2x16float may round towards zero and need not give infinity above 65504:
// here it is round half to even, as the CPU does.

override HEAD_DIM: u32 = 128u;           // even, at most 256
override K_TYPE: u32 = 0u;
override V_TYPE: u32 = 0u;
override WINDOW_BASE: u32 = 0u;          // positions of the sequences before the window
override WINDOW_ROWS: u32 = 0xffffffffu; // positions of those in it

const F32_CACHE: u32 = 1u;
const Q8_CACHE: u32 = 2u;

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

// Pairs of elements of a row.
fn pairs() -> u32 { return HEAD_DIM / 2u; }

// Words of codes of a row, blocks, and words of both codes and d.
fn q8_code_words() -> u32 { return (HEAD_DIM + 3u) / 4u; }

fn q8_blocks() -> u32 { return (HEAD_DIM + 31u) / 32u; }

fn q8_row_words() -> u32 { return q8_code_words() + (q8_blocks() + 1u) / 2u; }

// d of a block, from the word that has it.
fn q8_scale(word: u32, block: u32) -> f32 { return unpack2x16float(word >> (16u * (block & 1u))).x; }

fn q8_pair(codes: u32, scales: u32, pair: u32) -> vec2<f32> {
  return q8_scale(scales, pair / 16u) * vec2<f32>(unpack4xI8(codes >> (16u * (pair & 1u))).xy);
}

fn load_k(row: u32, pair: u32) -> vec2<f32> {
  if (K_TYPE == Q8_CACHE) {
    let at = row * q8_row_words();
    return q8_pair(k_cache[at + pair / 2u], k_cache[at + q8_code_words() + pair / 32u], pair);
  }
  let at = row * pairs() + pair;
  if (K_TYPE == F32_CACHE) { return vec2(bitcast<f32>(k_cache[2u * at]), bitcast<f32>(k_cache[2u * at + 1u])); }
  return unpack2x16float(k_cache[at]);
}

fn load_v(row: u32, pair: u32) -> vec2<f32> {
  if (V_TYPE == Q8_CACHE) {
    let at = row * q8_row_words();
    return q8_pair(v_cache[at + pair / 2u], v_cache[at + q8_code_words() + pair / 32u], pair);
  }
  let at = row * pairs() + pair;
  if (V_TYPE == F32_CACHE) { return vec2(bitcast<f32>(v_cache[2u * at]), bitcast<f32>(v_cache[2u * at + 1u])); }
  return unpack2x16float(v_cache[at]);
}
