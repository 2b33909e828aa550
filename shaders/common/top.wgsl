// The best 256 of a stream of tiles, by a workgroup of 256: `best` is kept in order, `tile` holds what comes next.
// Bitonic networks: of a sorted list and a reversed one, the better of each pair are the best of both, and need one
// merge of eight steps to be in order again.

var<workgroup> best: array<Ranked, 256>;
var<workgroup> tile: array<Ranked, 256>;

// Puts `tile` in reverse order, the worst first.
fn sort_tile(i: u32) {
  for (var run = 2u; run <= 256u; run = run << 1u) {
    for (var step = run >> 1u; step > 0u; step = step >> 1u) {
      workgroupBarrier();
      let at = 2u * i - (i & (step - 1u));
      if (i < 128u) {
        let a = tile[at];
        let b = tile[at + step];
        if (before(a, b) == ((at & run) == 0u)) {
          tile[at] = b;
          tile[at + step] = a;
        }
      }
    }
  }
}

// Merges `tile`, which is in reverse order, into `best`.
fn merge_tile(i: u32) {
  workgroupBarrier();
  if (before(tile[i], best[i])) { best[i] = tile[i]; }
  for (var step = 128u; step > 0u; step = step >> 1u) {
    workgroupBarrier();
    let at = 2u * i - (i & (step - 1u));
    if (i < 128u) {
      let a = best[at];
      let b = best[at + step];
      if (before(b, a)) {
        best[at] = b;
        best[at + step] = a;
      }
    }
  }
  workgroupBarrier();
}
