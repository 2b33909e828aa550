// As head_screen.wgsl for 2 to 8 tokens: the copy is read once for all of them
// In: as there, planes and queries of each token.
// Out: uppers (tokens, vocab), chunks (tokens, chunks), states (tokens).
// Grid: (ceil(rows / WG)). Four invocations a row, four rows each, one after the other.
// Reference: bitnet_cpu_kernels::screen. Test: tests/gpu/ops/screen.rs.

// A row's codes, as far as one invocation has them in a block.
struct Codes { u0: vec4<u32>, u1: vec4<u32>, u2: vec4<u32>, u3: vec4<u32> }

// Sums with the two planes of a token.
fn sums(codes: Codes, token: u32, h: u32) -> vec2<i32> {
  let at = token * 32u * p.blocks + h;
  let low = at + 16u * p.blocks;
  return vec2(
    i32(dots(codes.u0, planes[at]) + dots(codes.u1, planes[at + 4u])
      + dots(codes.u2, planes[at + 8u]) + dots(codes.u3, planes[at + 12u])),
    i32(dots(codes.u0, planes[low]) + dots(codes.u1, planes[low + 4u])
      + dots(codes.u2, planes[low + 8u]) + dots(codes.u3, planes[low + 12u])));
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let quarter = lane.index % 4u;
  let first = group.x * WG + lane.index / 4u;
  let row_quads = 12u * p.blocks + 1u;
  let six = vec4(0x3f3f3f3fu);
  let two = vec4(0x03030303u);
  var best: array<Ranked, 8>;
  for (var n = 0u; n < 8u; n++) { best[n] = none(); }
  for (var t = 0u; t < ROWS; t++) {
    let row = first + t * (WG / 4u);
    let row_at = p.copy0 + min(row, p.rows - 1u) * row_quads + quarter;
    // One variable a token, each step spelled out: an array with a running index would not stay in registers.
    var total0 = vec2<i32>();
    var total1 = vec2<i32>();
    var total2 = vec2<i32>();
    var total3 = vec2<i32>();
    var total4 = vec2<i32>();
    var total5 = vec2<i32>();
    var total6 = vec2<i32>();
    var total7 = vec2<i32>();
    for (var b = 0u; b < p.blocks; b++) {
      let c0 = copy[row_at + 12u * b];
      let c1 = copy[row_at + 12u * b + 4u];
      let c2 = copy[row_at + 12u * b + 8u];
      let u3 = ((c0 & two) << vec4(4u)) | ((c1 & two) << vec4(2u)) | (c2 & two);
      let codes = Codes((c0 >> vec4(2u)) & six, (c1 >> vec4(2u)) & six, (c2 >> vec4(2u)) & six, u3);
      let h = 16u * b + quarter;
      total0 += sums(codes, 0u, h);
      total1 += sums(codes, 1u, h);
      if (p.tokens > 2u) { total2 += sums(codes, 2u, h); }
      if (p.tokens > 3u) { total3 += sums(codes, 3u, h); }
      if (p.tokens > 4u) { total4 += sums(codes, 4u, h); }
      if (p.tokens > 5u) { total5 += sums(codes, 5u, h); }
      if (p.tokens > 6u) { total6 += sums(codes, 6u, h); }
      if (p.tokens > 7u) { total7 += sums(codes, 7u, h); }
    }
    var all = array(total0, total1, total2, total3, total4, total5, total6, total7);
    for (var n = 0u; n < p.tokens; n++) {
      let own = bounded(n, row, all[n].x, all[n].y, quarter, lane);
      if (before(own, best[n])) { best[n] = own; }
    }
  }
  for (var n = 0u; n < p.tokens; n++) { offer(n, group.x, best[n], lane); }
}
