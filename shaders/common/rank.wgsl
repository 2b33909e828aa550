// The order of logits: highest first, lowest id first among equals. Keys are integers in the order of the floats, so
// that no comparison is left to a compiler that assumes things about floats; zero and minus zero have one key. Key 0
// is below that of every finite number.

struct Ranked { key: u32, id: u32 }

// A function, as naga 30 loses the order of types of a module constant of a struct once overrides are set.
fn none() -> Ranked { return Ranked(0u, 0xffffffffu); }

fn key_of(logit: f32) -> u32 {
  let bits = bitcast<u32>(logit);
  if (bits == 0x80000000u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn bits_of(key: u32) -> u32 { return select(~key, key & 0x7fffffffu, (key >> 31u) == 1u); }

fn before(a: Ranked, b: Ranked) -> bool { return a.key > b.key || (a.key == b.key && a.id < b.id); }
