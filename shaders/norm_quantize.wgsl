// n = x / sqrt(mean(x^2) + eps) * weight; step = max(|n|, 1e-5) / 127; q = clamp(round_half_even(n / step)); sum = sum(q)
// In: x (tokens, in_stride) f32 or the partial results of attention (input_*.wgsl); weight (cols) f32.
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens) step and sum.
// Grid: (1, tokens). One workgroup a token; an invocation takes four adjacent columns at a time.
// Reference: bitnet_cpu_kernels::quantize::norm_quantize. Test: tests/gpu_ops/.

@group(0) @binding(1) var<storage, read> weight: array<f32>;       // (cols)
@group(0) @binding(2) var<storage, read_write> xq: array<u32>;     // (tokens, words)
@group(0) @binding(3) var<storage, read_write> acts: array<Act>;   // (tokens)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let token = group.y;
  var squares = 0.0;
  for (var w = lane.index; w < p.words; w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, p.cols); c++) {
      let v = first_value(token, c);
      note(v);
      squares += v * v;
    }
  }
  var norm = 1.0;
  if (NORM) { norm = 1.0 / sqrt(reduce_add(squares, lane) / f32(p.cols) + p.eps); }

  var most = 0.0;
  for (var w = lane.index; w < p.words; w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, p.cols); c++) {
      let n = normed(token, c, norm);
      note(n);
      most = max(most, abs(n));
    }
  }
  let top = max(reduce_max(most, lane), 1e-5);

  var sum = 0i;
  for (var w = lane.index; w < p.words; w += WG) {
    var q = vec4<i32>();
    for (var j = 0u; j < 4u; j++) {
      let c = 4u * w + j;
      if (c < p.cols) { q[j] = i32(clamp(round(normed(token, c, norm) * (127.0 / top)), -128.0, 127.0)); }
    }
    sum += q.x + q.y + q.z + q.w;
    xq[token * p.words + w] = pack4xI8(q);
  }
  let total = reduce_add_i32(sum, lane);
  if (lane.index == 0u) { acts[token] = Act(top / 127.0, total); }
}

fn normed(token: u32, column: u32, norm: f32) -> f32 {
  let v = value(token, column);
  if (!NORM) { return v; }
  return v * norm * weight[column];
}
