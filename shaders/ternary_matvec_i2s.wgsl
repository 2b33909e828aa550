// y[t][row] (+)= (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale * step[t]; with GATE: activate(row) * (row + rows)
// In: codes (rows, row_quads) I2_S; activations as int8, step and sum, or to be normed and quantised here (acts_*.wgsl).
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / (ROUNDS * WG / 4)), tokens). Four invocations a row: each step they read 64 adjacent bytes of it.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/.

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
  let codes_at = p.codes0 + r * p.row_quads;
  let up_at = codes_at + p.rows * p.row_quads;
  var total = Acc(0);
  var up_total = Acc(0);
  for (var c = quarter; c < p.row_quads; c += 4u) {
    let b = (c >> 1u) * 8u + (c & 1u);
    let x0 = x_of(token, b);
    let x1 = x_of(token, b + 2u);
    let x2 = x_of(token, b + 4u);
    let x3 = x_of(token, b + 6u);
    let q = codes[codes_at + c];
    total += four_parts(q, x0, x1, x2, x3);
    if (GATE != 0u) {
      let u = codes[up_at + c];
      up_total += four_parts(u, x0, x1, x2, x3);
    }
  }
  let act = act_of(token, 1u, 0u);
  var value = ternary(sum4(total, lane), act.sum) * (scale_of(p.row0 + r) * act.step);
  if (GATE != 0u) {
    value = activate(value) * (ternary(sum4(up_total, lane), act.sum) * (p.scale1 * act.step));
  }
  if (quarter == 0u && row < p.rows) { store(token, p.row0 + row, value); }
}
