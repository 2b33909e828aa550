// y[t][row] (+)= (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale * step[t], for 2 to 8 tokens; GATE as in the matvec
// In: codes (rows, row_quads) I2_S; x (tokens, 4 * row_quads) vec4 of int8; acts (tokens) step and sum.
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / (WG / 4))). Four invocations a row, as in ternary_matvec_i2s.wgsl; codes are read once for all tokens.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/ternary.rs.

// Sums of TOGETHER parts from `part` on, of a row and, with GATE, of the row that goes with it.
fn sums(q: vec4<u32>, u: vec4<u32>, token: u32, b: u32, part: u32) -> vec2<Acc> {
  let x0 = x_of(token, b + 2u * part);
  if (TOGETHER == 1u) {
    var result = vec2(one_part(q, part, x0), Acc(0));
    if (GATE != 0u) { result.y = one_part(u, part, x0); }
    return result;
  }
  let x1 = x_of(token, b + 2u);
  let x2 = x_of(token, b + 4u);
  let x3 = x_of(token, b + 6u);
  var result = vec2(four_parts(q, x0, x1, x2, x3), Acc(0));
  if (GATE != 0u) { result.y = four_parts(u, x0, x1, x2, x3); }
  return result;
}

fn finish(total: vec2<Acc>, token: u32, row: u32, lane: Lane) {
  let act = act_of(token, 1u, 0u);
  let r = min(row, p.rows - 1u);
  var value = ternary(sum4(total.x, lane), act.sum) * (scale_of(p.row0 + r) * act.step);
  if (GATE != 0u) {
    value = activate(value) * (ternary(sum4(total.y, lane), act.sum) * (p.scale1 * act.step));
  }
  if (lane.index % 4u == 0u && row < p.rows) { store(token, p.row0 + row, value); }
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let row = group.x * (WG / 4u) + lane.index / 4u;
  let r = min(row, p.rows - 1u);           // clamped instead of returning: the sums stay uniform
  let codes_at = p.codes0 + r * p.row_quads;
  // One variable a token, each step spelled out: an array with a running index would not stay in registers.
  var total0 = vec2<Acc>();
  var total1 = vec2<Acc>();
  var total2 = vec2<Acc>();
  var total3 = vec2<Acc>();
  var total4 = vec2<Acc>();
  var total5 = vec2<Acc>();
  var total6 = vec2<Acc>();
  var total7 = vec2<Acc>();
  for (var c = lane.index % 4u; c < p.row_quads; c += 4u) {
    let b = (c >> 1u) * 8u + (c & 1u);
    let q = codes[codes_at + c];
    var u = vec4<u32>();
    if (GATE != 0u) { u = codes[codes_at + p.rows * p.row_quads + c]; }
    for (var part = 0u; part < 4u; part += TOGETHER) {
      total0 += sums(q, u, 0u, b, part);
      total1 += sums(q, u, 1u, b, part);
      if (p.tokens > 2u) { total2 += sums(q, u, 2u, b, part); }
      if (p.tokens > 3u) { total3 += sums(q, u, 3u, b, part); }
      if (p.tokens > 4u) { total4 += sums(q, u, 4u, b, part); }
      if (p.tokens > 5u) { total5 += sums(q, u, 5u, b, part); }
      if (p.tokens > 6u) { total6 += sums(q, u, 6u, b, part); }
      if (p.tokens > 7u) { total7 += sums(q, u, 7u, b, part); }
    }
  }
  finish(total0, 0u, row, lane);
  finish(total1, 1u, row, lane);
  if (p.tokens > 2u) { finish(total2, 2u, row, lane); }
  if (p.tokens > 3u) { finish(total3, 3u, row, lane); }
  if (p.tokens > 4u) { finish(total4, 4u, row, lane); }
  if (p.tokens > 5u) { finish(total5, 5u, row, lane); }
  if (p.tokens > 6u) { finish(total6, 6u, row, lane); }
  if (p.tokens > 7u) { finish(total7, 7u, row, lane); }
}
