// Writing to the cache, and what a reader will find there.

fn store_k(index: u32, pair: vec2<f32>) {
  if (K_F32) {
    k_cache[2u * index] = bitcast<u32>(pair.x);
    k_cache[2u * index + 1u] = bitcast<u32>(pair.y);
  } else {
    k_cache[index] = f16_pack(pair);
  }
}

fn store_v(index: u32, pair: vec2<f32>) {
  if (V_F32) {
    v_cache[2u * index] = bitcast<u32>(pair.x);
    v_cache[2u * index + 1u] = bitcast<u32>(pair.y);
  } else {
    v_cache[index] = f16_pack(pair);
  }
}
