// n = x / sqrt(mean(x^2) + eps) * weight; n in 16 bits: step = max|n| / 32512, round(n / step) = 256 * high + low
// In: x (tokens, stride) f32; weight (cols) f32.
// Out: normed (rows, cols) f32, as rms_norm.wgsl; planes (tokens, 2, words) high and low int8, 0 past cols; queries; states.
// Grid: (1, tokens whose logits are wanted). One workgroup a token.
// Reference: bitnet_cpu_kernels::screen, whose bounds these are, in f32. Test: tests/gpu/ops/screen.rs.
//
// Floats here may be rounded in any direction, subnormal ones lost, and sums taken in any order. Of the sums of squares
// of up to 2^16 numbers that is less than 1e-4 (256 lanes of 256 numbers: 2^-15); n - step * round(n / step) is off by
// at most two units of n, 2.4e-7. The bounds below are wider by more than that.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  stride: u32,
  eps: f32,
  place: u32,        // see finite.wgsl
  words: u32,        // u32 of a plane: columns rounded up to 256, over 4
  gamma: f32,        // what the rounding of a product of cols columns is of |w| |x| at most
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> normed: array<f32>;
@group(0) @binding(3) var<storage, read_write> damage: atomic<u32>;
@group(0) @binding(4) var<storage, read_write> planes: array<u32>;
@group(0) @binding(5) var<storage, read_write> queries: array<Query>;
@group(0) @binding(6) var<storage, read_write> states: array<State>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let base = (p.first + group.y) * p.stride;
  let to = (p.normed + group.y) * p.cols;
  let plane = 2u * group.y * p.words;
  let norm = inverse_rms(base, lane);
  var most = 0.0;
  var squares = 0.0;
  for (var w = lane.index; w < p.words; w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, p.cols); c++) {
      let n = x[base + c] * norm * weight[c];
      note(n);
      normed[to + c] = n;
      most = max(most, abs(n));
      squares += n * n;
    }
  }
  let top = reduce_max(most, lane);
  let length = sqrt(reduce_add(squares, lane)) * 1.0002;
  let usable = top > 1e-9 && top < 1e15;

  let step = max(top, 1e-9) / 32512.0;
  var missed = 0.0;
  var high = 0i;
  var low = 0i;
  for (var w = lane.index; w < p.words; w += WG) {
    var upper = vec4<i32>();
    var lower = vec4<i32>();
    for (var j = 0u; 4u * w + j < p.cols && j < 4u; j++) {
      let n = normed[to + 4u * w + j];
      let v = i32(clamp(round(n / step), -32512.0, 32512.0));
      let off = n - f32(v) * step;
      missed += off * off;
      let rest = extractBits(v, 0u, 8u);
      lower[j] = rest;
      upper[j] = (v - rest) >> 8u;
    }
    high += upper.x + upper.y + upper.z + upper.w;
    low += lower.x + lower.y + lower.z + lower.w;
    planes[plane + w] = pack4xI8(upper);
    planes[plane + p.words + w] = pack4xI8(lower);
  }
  let short = sqrt(reduce_add(missed, lane)) * 1.0002 + length * 1e-6;
  let high_sum = reduce_add_i32(high, lane);
  let low_sum = reduce_add_i32(low, lane);
  if (lane.index == 0u) {
    queries[group.y] = Query(step, length + short, short + p.gamma * length, length, high_sum, low_sum, select(1u, 0u, usable));
    atomicStore(&states[group.y].exact, 0u);
    atomicStore(&states[group.y].best, 0u);
    atomicStore(&states[group.y].threshold, 0xffffffffu);
  }
}
