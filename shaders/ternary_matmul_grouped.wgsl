// y[t][row] (+)= sum_g (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale[row][g] * step[t][g], for many tokens
// In: codes (rows, row_quads) I2_S; scales (rows, groups); x (tokens, 4 * row_quads) vec4 of int8; acts (tokens, groups).
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / 64), ceil(tokens / 64)). 256 invocations make a 64 x 64 tile, 4 x 4 each, 128 columns a step.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/grouped.rs.

// Word-major, one word of padding against bank conflicts; codes stay packed. 11.7 KiB together.
var<workgroup> code_tile: array<u32, 520>;  // (8 words, 65)
var<workgroup> x_tile: array<u32, 2080>;    // (32 words, 65)
var<workgroup> scale_tile: array<f32, 128>; // (2 groups of a step, 64 rows)
var<workgroup> act_tile: array<Act, 128>;   // (2 groups of a step, 64 tokens)

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let across = i % 16u;
  let down = i / 16u;
  let row_first = group.x * 64u;
  let token_first = group.y * 64u;
  let blocks = p.row_quads / 2u;
  // Groups that end within a step.
  let halves = select(1u, 2u, GROUP == 64u);
  var total: array<array<Acc, 4>, 4>;
  var sums: array<array<f32, 4>, 4>;
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
    } else {
      let r = i - 128u;
      let h = r / 64u;
      var g = 0u;
      if (GROUP == 64u) {
        g = 2u * k + h;
      } else if (GROUP != 0u) {
        g = 128u * k / max(GROUP, 128u); // the compiler sees this with GROUP = 0, too: the divisor must not be
      }
      var scale = 0.0;
      var act = Act(0.0, 0i);
      if (g < p.groups) { // not the padded half of the last block
        scale = scale_at(min(row_first + r % 64u, p.rows - 1u), g);
        act = acts[min(token_first + r % 64u, p.tokens - 1u) * p.groups + g];
      }
      scale_tile[r] = scale;
      act_tile[r] = act;
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
    let ends = GROUP == 64u || GROUP == 128u || (GROUP == 256u && (k & 1u) == 1u) || k + 1u == blocks;
    for (var half = 0u; half < halves; half++) {
      for (var j = 0u; j < 8u; j++) {
        var q: array<u32, 4>;
        for (var a = 0u; a < 4u; a++) { q[a] = code_tile[j * 65u + across + 16u * a]; }
        for (var g = half * 2u; g < half * 2u + 4u / halves; g++) {
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
      if (ends) {
        for (var b = 0u; b < 4u; b++) {
          let act = act_tile[half * 64u + down + 16u * b];
          for (var a = 0u; a < 4u; a++) {
            let scale = scale_tile[half * 64u + across + 16u * a];
            sums[a][b] += ternary(total[a][b], act.sum) * (scale * act.step);
            total[a][b] = Acc(0);
          }
        }
      }
    }
    workgroupBarrier();
  }
  for (var b = 0u; b < 4u; b++) {
    let token = token_first + down + 16u * b;
    for (var a = 0u; a < 4u; a++) {
      let row = row_first + across + 16u * a;
      if (row < p.rows && token < p.tokens) { store(token, p.row0 + row, sums[a][b]); }
    }
  }
}
