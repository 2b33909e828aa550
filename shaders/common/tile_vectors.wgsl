// A tile of a matrix product: 64 rows by 64 tokens, of which a block of 128 columns is in workgroup memory at a time.
// By vectors: one load for four words is a quarter of the messages on Intel. Twin of tile_words.wgsl. 10.2 KiB together.

const ROWS_EACH: u32 = 4u;             // of an invocation, 16 apart
const DOWN: u32 = 64u / TOKENS_EACH;   // and from one of its tokens to the next

alias Totals = array<array<Acc, TOKENS_EACH>, ROWS_EACH>;

// Quad-major, one quad of padding against bank conflicts; codes stay packed.
var<workgroup> code_tile: array<vec4<u32>, 130>; // (2 quads, 65)
var<workgroup> x_tile: array<vec4<u32>, 520>;    // (8 quads, 65)

fn put_codes(row: u32, quad: u32, v: vec4<u32>) { code_tile[quad * 65u + row] = v; }

fn put_x(token: u32, quad: u32, v: vec4<u32>) { x_tile[quad * 65u + token] = v; }

// Adds the products of parts `first` to `end` of the block, of 32 columns each, to the totals of an invocation.
fn add_tile(total: ptr<function, Totals>, across: u32, down: u32, first: u32, end: u32) {
  for (var j = 0u; j < 2u; j++) {
    var q: array<vec4<u32>, ROWS_EACH>;
    for (var a = 0u; a < ROWS_EACH; a++) { q[a] = code_tile[j * 65u + across + 16u * a]; }
    for (var part = first; part < end; part++) {
      var c: array<vec4<u32>, ROWS_EACH>;
      for (var a = 0u; a < ROWS_EACH; a++) { c[a] = (q[a] >> vec4(6u - 2u * part)) & vec4(0x03030303u); }
      for (var b = 0u; b < TOKENS_EACH; b++) {
        let v = x_tile[(2u * part + j) * 65u + down + DOWN * b];
        for (var a = 0u; a < ROWS_EACH; a++) {
          // One after the other: each is an instruction that adds to the sum before.
          (*total)[a][b] += dot4(c[a].x, v.x);
          (*total)[a][b] += dot4(c[a].y, v.y);
          (*total)[a][b] += dot4(c[a].z, v.z);
          (*total)[a][b] += dot4(c[a].w, v.w);
        }
      }
    }
  }
}
