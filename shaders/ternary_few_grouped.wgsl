// y[t][row] (+)= sum_g (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale[row][g] * step[t][g], for 2 to 8 tokens
// In: codes (rows, row_quads) I2_S; scales (rows, groups); x (tokens, 4 * row_quads) vec4 of int8; acts (tokens, groups).
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row; GATE as in ternary_matvec_grouped.wgsl.
// Grid: (ceil(rows / (WG / 4))). Four invocations a row, as there; codes and scales are read once for all tokens.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/grouped.rs.

// Of a row and, with GATE, of the row that goes with it: with groups the scaled sums, without them those of codes.
struct Sums { scaled: vec2<f32>, whole: vec2<Acc> }

// What an invocation reads of a row: codes, and the scales of their columns up to the middle of the block and from it.
struct Row { codes: vec4<u32>, low_scale: f32, high_scale: f32 }

fn row_at(row: u32, c: u32) -> Row {
  var result = Row(codes[p.codes0 + row * p.row_quads + c], 0.0, 0.0);
  if (GROUP == 64u) {
    let g = c & ~1u;
    result.low_scale = scale_at(row, g);
    if (g + 1u < p.groups) { result.high_scale = scale_at(row, g + 1u); } // not the padded half of the last block
  } else if (GROUP != 0u) {
    // The compiler sees this with GROUP = 0, too: the divisor must not be.
    result.low_scale = scale_at(row, 64u * c / max(GROUP, 64u));
  }
  return result;
}

// As in ternary_matvec_grouped.wgsl.
fn scaled(before: f32, total: Acc, first: bool, scale: f32, act: Act) -> f32 {
  return fma(ternary(total, select(0i, act.sum, first)), scale * act.step, before);
}

// Sums of codes with a token, without scales: those up to the middle of the block, and from it. Each of a row and, with
// GATE, of the row that goes with it.
struct Parts { low: vec2<Acc>, high: vec2<Acc> }

fn all_parts(row: Row, up: Row, token: u32, b: u32) -> Parts {
  let x0 = x_of(token, b);
  let x1 = x_of(token, b + 2u);
  let x2 = x_of(token, b + 4u);
  let x3 = x_of(token, b + 6u);
  var result = Parts(vec2(two_parts(row.codes, 6u, x0, x1), Acc(0)), vec2(two_parts(row.codes, 2u, x2, x3), Acc(0)));
  if (GATE != 0u) {
    result.low.y = two_parts(up.codes, 6u, x0, x1);
    result.high.y = two_parts(up.codes, 2u, x2, x3);
  }
  return result;
}

// With one part more.
fn and_part(before: Parts, row: Row, up: Row, token: u32, b: u32, part: u32) -> Parts {
  let x0 = x_of(token, b + 2u * part);
  var own = vec2(one_part(row.codes, part, x0), Acc(0));
  if (GATE != 0u) { own.y = one_part(up.codes, part, x0); }
  if (part < 2u) { return Parts(before.low + own, before.high); }
  return Parts(before.low, before.high + own);
}

fn added(before: Sums, parts: Parts, row: Row, up: Row, token: u32, c: u32) -> Sums {
  let low = parts.low;
  let high = parts.high;
  var result = before;
  if (GROUP == 0u) {
    result.whole += low + high;
  } else if (GROUP == 64u) {
    let first = (c & 1u) == 0u;
    let g = c & ~1u;
    let low_act = act_of(token, p.groups, g);
    let high_act = act_of(token, p.groups, min(g + 1u, p.groups - 1u));
    result.scaled.x = scaled(result.scaled.x, low.x, first, row.low_scale, low_act);
    result.scaled.x = scaled(result.scaled.x, high.x, first, row.high_scale, high_act);
    if (GATE != 0u) {
      result.scaled.y = scaled(result.scaled.y, low.y, first, up.low_scale, low_act);
      result.scaled.y = scaled(result.scaled.y, high.y, first, up.high_scale, high_act);
    }
  } else {
    let act = act_of(token, p.groups, 64u * c / max(GROUP, 64u));
    let first = 64u * c % max(GROUP, 64u) == 0u;
    result.scaled.x = scaled(before.scaled.x, low.x + high.x, first, row.low_scale, act);
    if (GATE != 0u) { result.scaled.y = scaled(before.scaled.y, low.y + high.y, first, up.low_scale, act); }
  }
  return result;
}

fn finish(total: Sums, token: u32, row: u32, lane: Lane) {
  let r = min(row, p.rows - 1u);
  var value = sum4_f32(total.scaled.x, lane);
  var up_value = 0.0;
  if (GATE != 0u) { up_value = sum4_f32(total.scaled.y, lane); }
  if (GROUP == 0u) {
    let act = act_of(token, p.groups, 0u);
    value = ternary(sum4(total.whole.x, lane), act.sum) * (scale_at(r, 0u) * act.step);
    if (GATE != 0u) { up_value = ternary(sum4(total.whole.y, lane), act.sum) * (scale_at(r + p.rows, 0u) * act.step); }
  }
  if (GATE != 0u) { value = activate(value) * up_value; }
  if (lane.index % 4u == 0u && row < p.rows) { store(token, p.row0 + row, value); }
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let row = group.x * (WG / 4u) + lane.index / 4u;
  let r = min(row, p.rows - 1u);           // clamped instead of returning: the sums stay uniform
  // One variable a token, each step spelled out: an array with a running index would not stay in registers.
  var total0 = Sums();
  var total1 = Sums();
  var total2 = Sums();
  var total3 = Sums();
  var total4 = Sums();
  var total5 = Sums();
  var total6 = Sums();
  var total7 = Sums();
  for (var c = lane.index % 4u; c < p.row_quads; c += 4u) {
    let q = row_at(r, c);
    var u = Row(vec4<u32>(), 0.0, 0.0);
    if (GATE != 0u) { u = row_at(r + p.rows, c); }
    let b = (c >> 1u) * 8u + (c & 1u);
    if (TOGETHER == 4u) {
      total0 = added(total0, all_parts(q, u, 0u, b), q, u, 0u, c);
      total1 = added(total1, all_parts(q, u, 1u, b), q, u, 1u, c);
      if (p.tokens > 2u) { total2 = added(total2, all_parts(q, u, 2u, b), q, u, 2u, c); }
      if (p.tokens > 3u) { total3 = added(total3, all_parts(q, u, 3u, b), q, u, 3u, c); }
      if (p.tokens > 4u) { total4 = added(total4, all_parts(q, u, 4u, b), q, u, 4u, c); }
      if (p.tokens > 5u) { total5 = added(total5, all_parts(q, u, 5u, b), q, u, 5u, c); }
      if (p.tokens > 6u) { total6 = added(total6, all_parts(q, u, 6u, b), q, u, 6u, c); }
      if (p.tokens > 7u) { total7 = added(total7, all_parts(q, u, 7u, b), q, u, 7u, c); }
    } else {
      var parts0 = Parts();
      var parts1 = Parts();
      var parts2 = Parts();
      var parts3 = Parts();
      var parts4 = Parts();
      var parts5 = Parts();
      var parts6 = Parts();
      var parts7 = Parts();
      for (var part = 0u; part < 4u; part++) {
        parts0 = and_part(parts0, q, u, 0u, b, part);
        parts1 = and_part(parts1, q, u, 1u, b, part);
        if (p.tokens > 2u) { parts2 = and_part(parts2, q, u, 2u, b, part); }
        if (p.tokens > 3u) { parts3 = and_part(parts3, q, u, 3u, b, part); }
        if (p.tokens > 4u) { parts4 = and_part(parts4, q, u, 4u, b, part); }
        if (p.tokens > 5u) { parts5 = and_part(parts5, q, u, 5u, b, part); }
        if (p.tokens > 6u) { parts6 = and_part(parts6, q, u, 6u, b, part); }
        if (p.tokens > 7u) { parts7 = and_part(parts7, q, u, 7u, b, part); }
      }
      total0 = added(total0, parts0, q, u, 0u, c);
      total1 = added(total1, parts1, q, u, 1u, c);
      if (p.tokens > 2u) { total2 = added(total2, parts2, q, u, 2u, c); }
      if (p.tokens > 3u) { total3 = added(total3, parts3, q, u, 3u, c); }
      if (p.tokens > 4u) { total4 = added(total4, parts4, q, u, 4u, c); }
      if (p.tokens > 5u) { total5 = added(total5, parts5, q, u, 5u, c); }
      if (p.tokens > 6u) { total6 = added(total6, parts6, q, u, 6u, c); }
      if (p.tokens > 7u) { total7 = added(total7, parts7, q, u, 7u, c); }
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
