// y[t][row] (+)= (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale * step[t], for many tokens
// In: codes (rows, row_quads) I2_S; x (tokens, 4 * row_quads) vec4 of int8; acts (tokens) step and sum.
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / 64), ceil(tokens / 64)). 256 invocations make a 64 x 64 tile, 4 x 4 each, 128 columns a step.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/.

// Word-major, one word of padding against bank conflicts; codes stay packed. 10.2 KiB together.
var<workgroup> code_tile: array<u32, 520>; // (8 words, 65)
var<workgroup> x_tile: array<u32, 2080>;   // (32 words, 65)

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let across = i % 16u;
  let down = i / 16u;
  let row_first = group.x * 64u;
  let token_first = group.y * 64u;
  let blocks = p.row_quads / 2u;
  var total: array<array<Acc, 4>, 4>;
  for (var k = 0u; k < blocks; k++) {
    if (i < 128u) {
      let r = i >> 1u;
      let h = i & 1u;
      let v = codes[p.codes0 + min(row_first + r, p.rows - 1u) * p.row_quads + 2u * k + h];
      let o = h * 260u + r;
      code_tile[o] = v.x;
      code_tile[o + 65u] = v.y;
      code_tile[o + 130u] = v.z;
      code_tile[o + 195u] = v.w;
    }
    for (var j = i; j < 512u; j += 256u) {
      let t = j >> 3u;
      let h = j & 7u;
      let v = x[(min(token_first + t, p.tokens - 1u) * blocks + k) * 8u + h];
      let o = h * 260u + t;
      x_tile[o] = v.x;
      x_tile[o + 65u] = v.y;
      x_tile[o + 130u] = v.z;
      x_tile[o + 195u] = v.w;
    }
    workgroupBarrier();
    for (var j = 0u; j < 8u; j++) {
      var q: array<u32, 4>;
      for (var a = 0u; a < 4u; a++) { q[a] = code_tile[j * 65u + across + 16u * a]; }
      for (var g = 0u; g < 4u; g++) {
        let shift = 6u - 2u * g;
        let at = (g * 8u + j) * 65u + down;
        let x0 = x_tile[at];
        let x1 = x_tile[at + 16u];
        let x2 = x_tile[at + 32u];
        let x3 = x_tile[at + 48u];
        for (var a = 0u; a < 4u; a++) {
          let c = (q[a] >> shift) & 0x03030303u;
          total[a][0] += dot4(c, x0);
          total[a][1] += dot4(c, x1);
          total[a][2] += dot4(c, x2);
          total[a][3] += dot4(c, x3);
        }
      }
    }
    workgroupBarrier();
  }
  for (var b = 0u; b < 4u; b++) {
    let token = token_first + down + 16u * b;
    for (var a = 0u; a < 4u; a++) {
      let row = row_first + across + 16u * a;
      if (row < p.rows && token < p.tokens) {
        let act = acts[token];
        store(token, p.row0 + row, ternary(total[a][b], act.sum) * (scale_of(p.row0 + row) * act.step));
      }
    }
  }
}
