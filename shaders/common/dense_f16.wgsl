// Two adjacent values of a row that begins at byte `row`; `column` is even.

fn dense_pair(row: u32, column: u32) -> vec2<f32> { return unpack2x16float(table[(row + 2u * column) / 4u]); }
