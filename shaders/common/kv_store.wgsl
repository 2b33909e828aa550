// Writing to the cache, and what a reader will find there. f16 and f32 are written by pairs; a row of q8_0 is gathered
// in `kept` first, because a block of 32 has one d: max|x| / 127 in f16, the next one up where rounding down makes it
// too small for the largest x; codes are x / d to the nearest integer. Divisions are done in integers: those of floats
// may be off by some units in the last place, and the bytes shall be those of the CPU on every device.

struct Step { d: u32, inverse: f32 } // bits of f16; 1 / d, or 0 where that is no number

var<workgroup> kept: array<f32, 256>;
var<workgroup> steps: array<Step, 8>; // of the blocks of `kept`

fn store_k(row: u32, pair: u32, value: vec2<f32>) {
  let at = row * pairs() + pair;
  if (K_TYPE == F32_CACHE) {
    k_cache[2u * at] = bitcast<u32>(value.x);
    k_cache[2u * at + 1u] = bitcast<u32>(value.y);
  } else {
    k_cache[at] = f16_pack(value);
  }
}

fn store_v(row: u32, pair: u32, value: vec2<f32>) {
  let at = row * pairs() + pair;
  if (V_TYPE == F32_CACHE) {
    v_cache[2u * at] = bitcast<u32>(value.x);
    v_cache[2u * at + 1u] = bitcast<u32>(value.y);
  } else {
    v_cache[at] = f16_pack(value);
  }
}

// n / divisor * 2^exponent, rounded to nearest even. n is at least 2^31 and the divisor below 2^11, so that 26 bits
// of the quotient and whether anything is left are enough; the result must be a normal number.
fn quotient(n: u32, divisor: u32, exponent: i32) -> f32 {
  let rest = (n % divisor) << 5u;
  let q = ((n / divisor) << 5u) | (rest / divisor);
  let top = firstLeadingBit(q);
  let shift = top - 23u;
  let half = 1u << (shift - 1u);
  let below = q & ((half << 1u) - 1u);
  var mantissa = q >> shift;
  let left = rest % divisor != 0u;
  if (below > half || (below == half && (left || (mantissa & 1u) == 1u))) { mantissa += 1u; }
  // The leading bit of the mantissa, or the carry of the rounding, adds one to the exponent.
  return bitcast<f32>((u32(exponent + i32(top) - 5 + 126) << 23u) + mantissa);
}

// Of the bits of max|x|, among which those of NaN are the highest.
fn step_of(largest: u32) -> Step {
  var d = 0x7e00u;
  if (largest == 0x7f800000u) {
    d = 0x7c00u;
  } else if (largest < 0x30000000u) {
    d = min(largest, 1u); // 0, or below 2^-31: the least d is too large
  } else if (largest < 0x7f800000u) {
    let mantissa = (largest & 0x007fffffu) | 0x00800000u;
    d = f16_bits(quotient(mantissa << 8u, 127u, i32(largest >> 23u) - 158));
    // Only among subnormal d is a rounding down so large. 127.5 * 2^-24.
    if (d < 0x0400u && f32(d) * 7.599592208862305e-6 < bitcast<f32>(largest)) { d += 1u; }
  }
  if (d == 0u || d >= 0x7c00u) { return Step(d, 0.0); }
  var m = d & 0x03ffu;
  var e = i32(d >> 10u);
  if (e == 0) {
    let shift = 10u - firstLeadingBit(m);
    m = m << shift;
    e = 1 - i32(shift);
  } else {
    m |= 0x0400u;
  }
  return Step(d, quotient(0x80000000u, m, -6 - e)); // d = m * 2^(e - 25)
}

// The steps of what has been written to `kept`. In uniform control flow.
fn find_steps(lane: Lane) {
  workgroupBarrier();
  for (var b = lane.index; b < q8_blocks(); b += WG) {
    var largest = 0u;
    for (var e = 32u * b; e < min(32u * b + 32u, HEAD_DIM); e++) {
      largest = max(largest, bitcast<u32>(kept[e]) & 0x7fffffffu);
    }
    steps[b] = step_of(largest);
  }
  workgroupBarrier();
}

fn q8_code(value: f32, step: Step) -> f32 { return clamp(round(value * step.inverse), -128.0, 127.0); }

// As it is read again.
fn q8_rounded(value: f32, step: Step) -> f32 { return q8_scale(step.d, 0u) * q8_code(value, step); }

// A word of the row that `kept` is.
fn q8_word(w: u32) -> u32 {
  if (w < q8_code_words()) {
    let step = steps[w / 8u];
    var codes = vec4<i32>();
    for (var j = 0u; j < min(4u, HEAD_DIM - 4u * w); j++) { codes[j] = i32(q8_code(kept[4u * w + j], step)); }
    return pack4xI8(codes);
  }
  let b = 2u * (w - q8_code_words());
  var word = steps[b].d;
  if (b + 1u < q8_blocks()) { word |= steps[b + 1u].d << 16u; }
  return word;
}
