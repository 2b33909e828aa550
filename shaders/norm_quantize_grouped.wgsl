// n = x / sqrt(mean(x^2) + eps) * weight; for each group: step = max(|n|, 1e-5) / 127; q = clamp(round_half_even(n / step)); sum = sum(q)
// In: x (tokens, in_stride) f32 or the partial results of attention (input_*.wgsl); weight (cols) f32.
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens, cols / GROUP) step and sum.
// Grid: (1, tokens). One workgroup a token; GROUP / 4 adjacent invocations a group, four adjacent columns each.
// Reference: bitnet_cpu_kernels::quantize::norm_quantize. Test: tests/gpu_ops/grouped.rs.

@group(0) @binding(1) var<storage, read> weight: array<f32>;       // (cols)
@group(0) @binding(2) var<storage, read_write> xq: array<u32>;     // (tokens, words)
@group(0) @binding(3) var<storage, read_write> acts: array<Act>;   // (tokens, cols / GROUP)
@group(0) @binding(4) var<storage, read_write> damage: atomic<u32>;

override GROUP: u32 = 128u; // 64, 128 or 256; cols is a multiple of it

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

  let members = max(GROUP, 4u) / 4u;
  let member = lane.index % members;
  let leader = lane.index - member;
  // Every invocation takes every turn: they meet at the barriers.
  for (var base = 0u; base < p.words; base += WG) {
    let w = base + lane.index;
    var n = vec4<f32>();
    if (4u * w < p.cols) {
      for (var j = 0u; j < 4u; j++) {
        n[j] = normed(token, 4u * w + j, norm);
        note(n[j]);
      }
    }
    lane_f32[lane.index] = max(max(abs(n.x), abs(n.y)), max(abs(n.z), abs(n.w)));
    workgroupBarrier();
    for (var half = members / 2u; half > 0u; half = half >> 1u) {
      if (member < half) { lane_f32[lane.index] = max(lane_f32[lane.index], lane_f32[lane.index + half]); }
      workgroupBarrier();
    }
    let top = max(lane_f32[leader], 1e-5);

    let q = vec4<i32>(clamp(round(n * (127.0 / top)), vec4(-128.0), vec4(127.0)));
    lane_i32[lane.index] = q.x + q.y + q.z + q.w;
    workgroupBarrier();
    for (var half = members / 2u; half > 0u; half = half >> 1u) {
      if (member < half) { lane_i32[lane.index] += lane_i32[lane.index + half]; }
      workgroupBarrier();
    }
    if (w < p.words) { xq[token * p.words + w] = pack4xI8(q); }
    if (member == 0u && 4u * w < p.cols) {
      acts[token * (p.cols / (4u * members)) + w / members] = Act(top / 127.0, lane_i32[lane.index]);
    }
    workgroupBarrier(); // before the arrays are used again
  }
}

fn normed(token: u32, column: u32, norm: f32) -> f32 {
  let v = value(token, column);
  if (!NORM) { return v; }
  return v * norm * weight[column];
}
