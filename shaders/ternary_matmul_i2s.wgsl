// y[t][row] (+)= (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale * step[t], for many tokens
// In: codes (rows, row_quads) I2_S; x (tokens, 4 * row_quads) vec4 of int8; acts (tokens) step and sum.
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / 64), ceil(tokens / 64)). WG invocations make a 64 x 64 tile (tile_*.wgsl), 128 columns a step.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/.

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let across = i % 16u;
  let down = i / 16u;
  let row_first = group.x * 64u;
  let token_first = group.y * 64u;
  let blocks = p.row_quads / 2u;
  var total: Totals;
  for (var k = 0u; k < blocks; k++) {
    for (var j = i; j < 128u; j += WG) {
      let row = min(row_first + (j >> 1u), p.rows - 1u);
      put_codes(j >> 1u, j & 1u, codes[p.codes0 + row * p.row_quads + 2u * k + (j & 1u)]);
    }
    for (var j = i; j < 512u; j += WG) {
      let token = min(token_first + (j >> 3u), p.tokens - 1u);
      put_x(j >> 3u, j & 7u, x[(token * blocks + k) * 8u + (j & 7u)]);
    }
    workgroupBarrier();
    add_tile(&total, across, down, 0u, 4u);
    workgroupBarrier();
  }
  for (var b = 0u; b < TOKENS_EACH; b++) {
    let token = token_first + down + DOWN * b;
    for (var a = 0u; a < ROWS_EACH; a++) {
      let row = row_first + across + 16u * a;
      if (row < p.rows && token < p.tokens) {
        let act = acts[token];
        store(token, p.row0 + row, ternary(total[a][b], act.sum) * (scale_of(p.row0 + row) * act.step));
      }
    }
  }
}
