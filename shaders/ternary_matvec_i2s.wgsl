// y[t][row] (+)= (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale * step[t]; with GATE: activate(row) * (row + rows)
// In: codes (rows, row_quads) I2_S; activations as int8, step and sum, or to be normed and quantised here (acts_*.wgsl).
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / (ROUNDS * WG / 4)), tokens). Four invocations a row: each step they read 64 adjacent bytes of it.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu_ops/.

fn block(q: vec4<u32>, x0: vec4<u32>, x1: vec4<u32>, x2: vec4<u32>, x3: vec4<u32>) -> Acc {
  let m = vec4(0x03030303u);
  let c0 = (q >> vec4(6u)) & m;
  let c1 = (q >> vec4(4u)) & m;
  let c2 = (q >> vec4(2u)) & m;
  let c3 = q & m;
  return dot4(c0.x, x0.x) + dot4(c0.y, x0.y) + dot4(c0.z, x0.z) + dot4(c0.w, x0.w)
       + dot4(c1.x, x1.x) + dot4(c1.y, x1.y) + dot4(c1.z, x1.z) + dot4(c1.w, x1.w)
       + dot4(c2.x, x2.x) + dot4(c2.y, x2.y) + dot4(c2.z, x2.z) + dot4(c2.w, x2.w)
       + dot4(c3.x, x3.x) + dot4(c3.y, x3.y) + dot4(c3.z, x3.z) + dot4(c3.w, x3.w);
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
    total += block(q, x0, x1, x2, x3);
    if (GATE != 0u) {
      let u = codes[up_at + c];
      up_total += block(u, x0, x1, x2, x3);
    }
  }
  let act = act_of(token, 1u, 0u);
  var value = ternary(sum4(total, lane), act.sum) * (scale_of(p.row0 + r) * act.step);
  if (GATE != 0u) {
    value = activate(value) * (ternary(sum4(up_total, lane), act.sum) * (p.scale1 * act.step));
  }
  if (quarter == 0u && row < p.rows) { store(token, p.row0 + row, value); }
}
