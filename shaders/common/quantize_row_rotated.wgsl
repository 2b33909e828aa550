// Rotated (rotate.wgsl), then a scale for each group of columns (quantize_groups.wgsl): 4 * WG columns at a time, a tile.

fn quantize_tile(token: u32, tile: u32, norm: f32, lane: Lane) {
  let w = tile * WG + lane.index;
  quantize_word(token, w, rotated_word(token, w, norm, lane), lane);
}

fn quantize_row(token: u32, lane: Lane) {
  let norm = norm_of_row(token, lane);
  for (var tile = 0u; tile * WG < words(); tile++) { quantize_tile(token, tile, norm, lane); }
}
