// y[t][row] (+)= sum_g (sum_c code[row][c] * x[t][c] - sum_c x[t][c]) * scale[row][g] * step[t][g], for many tokens
// In: codes (rows, row_quads) I2_S; scales (rows, groups); x (tokens, 4 * row_quads) vec4 of int8; acts (tokens, groups).
// Out: y (tokens, out_stride) f32 at out_offset + row0 + row.
// Grid: (ceil(rows / 64), ceil(tokens / 64)). WG invocations make a 64 x 64 tile (tile_*.wgsl), 128 columns a step.
// Reference: bitnet_cpu_kernels::ternary::matmul. Test: tests/gpu/ops/grouped.rs.

// With the tile 11.7 KiB.
var<workgroup> scale_tile: array<f32, 128>; // (2 groups of a step, 64 rows)
var<workgroup> act_tile: array<Act, 128>;   // (2 groups of a step, 64 tokens)

// Number `j` of the scales and activations of step k.
fn put_group(j: u32, k: u32, row_first: u32, token_first: u32) {
  var g = 0u;
  if (GROUP == 64u) {
    g = 2u * k + j / 64u;
  } else if (GROUP != 0u) {
    g = 128u * k / max(GROUP, 128u); // the compiler sees this with GROUP = 0, too: the divisor must not be
  }
  var scale = 0.0;
  var act = Act(0.0, 0i);
  if (g < p.groups) { // not the padded half of the last block
    scale = scale_at(min(row_first + j % 64u, p.rows - 1u), g);
    act = acts[min(token_first + j % 64u, p.tokens - 1u) * p.groups + g];
  }
  scale_tile[j] = scale;
  act_tile[j] = act;
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let across = i % 16u;
  let down = i / 16u;
  let row_first = group.x * 64u;
  let token_first = group.y * 64u;
  let blocks = p.row_quads / 2u;
  // Groups that end within a step.
  let halves = select(1u, 2u, GROUP == 64u);
  var total: Totals;
  var sums: array<array<f32, TOKENS_EACH>, ROWS_EACH>;
  for (var k = 0u; k < blocks; k++) {
    for (var j = i; j < 128u; j += WG) {
      let row = min(row_first + (j >> 1u), p.rows - 1u);
      put_codes(j >> 1u, j & 1u, codes[p.codes0 + row * p.row_quads + 2u * k + (j & 1u)]);
    }
    for (var j = i; j < 512u; j += WG) {
      let token = min(token_first + (j >> 3u), p.tokens - 1u);
      put_x(j >> 3u, j & 7u, x[(token * blocks + k) * 8u + (j & 7u)]);
    }
    if (i >= WG - 128u) { put_group(i - (WG - 128u), k, row_first, token_first); }
    workgroupBarrier();
    let ends = GROUP == 64u || GROUP == 128u || (GROUP == 256u && (k & 1u) == 1u) || k + 1u == blocks;
    for (var half = 0u; half < halves; half++) {
      add_tile(&total, across, down, half * 2u, half * 2u + 4u / halves);
      if (ends) {
        for (var b = 0u; b < TOKENS_EACH; b++) {
          let act = act_tile[half * 64u + down + DOWN * b];
          for (var a = 0u; a < ROWS_EACH; a++) {
            let scale = scale_tile[half * 64u + across + 16u * a];
            sums[a][b] += ternary(total[a][b], act.sum) * (scale * act.step);
            total[a][b] = Acc(0);
          }
        }
      }
    }
    workgroupBarrier();
  }
  for (var b = 0u; b < TOKENS_EACH; b++) {
    let token = token_first + down + DOWN * b;
    for (var a = 0u; a < ROWS_EACH; a++) {
      let row = row_first + across + 16u * a;
      if (row < p.rows && token < p.tokens) { store(token, p.row0 + row, sums[a][b]); }
    }
  }
}
