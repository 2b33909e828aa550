// A scale for each group of columns (quantize_groups.wgsl), four adjacent columns an invocation.

fn quantize_row(token: u32, lane: Lane) {
  let norm = norm_of_row(token, lane);
  // Every invocation takes every turn: they meet at the barriers.
  for (var base = 0u; base < words(); base += WG) {
    let w = base + lane.index;
    var n = vec4<f32>();
    if (w < words()) { n = normed(token, w, norm); }
    quantize_word(token, w, n, lane);
  }
}
