// y[t][row] (+)= sum_g (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale[row][g] * step[t][g]; GATE: activate(row) * (row + rows)
// In: codes (rows, row_quads) I2_S; scales (rows, groups); activations as for ternary_matvec_i2s.wgsl, in groups.
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / (ROUNDS * WG / 4)), tokens). Four invocations a row: each step they read 64 adjacent bytes of it.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/grouped.rs.

// What came before and a part of a group, of which the sum of the values is taken off once: by the invocation that has
// its `first` part. With fma written out, as in ternary_few_grouped.wgsl: where a compiler is left to make them, it may
// do so in one kernel and not in the other.
fn scaled(before: f32, total: Acc, first: bool, row: u32, group: u32, token: u32) -> f32 {
  if (group >= p.groups) { return before; } // the padded half of the last block
  let act = act_of(token, p.groups, group);
  return fma(ternary(total, select(0i, act.sum, first)), scale_at(row, group) * act.step, before);
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let token = group.y;
  prepare(token, lane);
  for (var round = 0u; round < ROUNDS; round++) {
    rows(token, (group.x * ROUNDS + round) * (WG / 4u) + lane.index / 4u, lane);
  }
}

fn rows(token: u32, row: u32, lane: Lane) {
  let quarter = lane.index % 4u;
  let r = min(row, p.rows - 1u);           // clamped instead of returning: the sums stay uniform
  let up = r + p.rows;
  var total = 0.0;
  var up_total = 0.0;
  var whole = Acc(0);
  var up_whole = Acc(0);
  for (var c = quarter; c < p.row_quads; c += 4u) {
    let block = c >> 1u;
    let b = block * 8u + (c & 1u);
    let x0 = x_of(token, b);
    let x1 = x_of(token, b + 2u);
    let x2 = x_of(token, b + 4u);
    let x3 = x_of(token, b + 6u);
    let q = codes[p.codes0 + r * p.row_quads + c];
    let low = two_parts(q, 6u, x0, x1);
    let high = two_parts(q, 2u, x2, x3);
    var up_low = Acc(0);
    var up_high = Acc(0);
    if (GATE != 0u) {
      let u = codes[p.codes0 + up * p.row_quads + c];
      up_low = two_parts(u, 6u, x0, x1);
      up_high = two_parts(u, 2u, x2, x3);
    }
    if (GROUP == 0u) {
      whole += low + high;
      up_whole += up_low + up_high;
    } else if (GROUP == 64u) {
      let first = (c & 1u) == 0u;
      total = scaled(total, low, first, r, 2u * block, token);
      total = scaled(total, high, first, r, 2u * block + 1u, token);
      if (GATE != 0u) {
        up_total = scaled(up_total, up_low, first, up, 2u * block, token);
        up_total = scaled(up_total, up_high, first, up, 2u * block + 1u, token);
      }
    } else {
      // The compiler sees this with GROUP = 0, too: the divisor must not be.
      let g = 64u * c / max(GROUP, 64u);
      let first = 64u * c % max(GROUP, 64u) == 0u;
      total = scaled(total, low + high, first, r, g, token);
      if (GATE != 0u) { up_total = scaled(up_total, up_low + up_high, first, up, g, token); }
    }
  }
  var value = sum4_f32(total, lane);
  var up_value = 0.0;
  if (GATE != 0u) { up_value = sum4_f32(up_total, lane); }
  if (GROUP == 0u) {
    let act = act_of(token, p.groups, 0u);
    value = ternary(sum4(whole, lane), act.sum) * (scale_at(r, 0u) * act.step);
    if (GATE != 0u) { up_value = ternary(sum4(up_whole, lane), act.sum) * (scale_at(up, 0u) * act.step); }
  }
  if (GATE != 0u) { value = activate(value) * up_value; }
  if (quarter == 0u && row < p.rows) { store(token, p.row0 + row, value); }
}
