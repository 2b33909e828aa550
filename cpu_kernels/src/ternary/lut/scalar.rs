//! The reference: one lookup at a time.

use super::{
    LOOKUP_ROWS,
    geometry::{Lookup, Run},
    tables::{Quad, Tables, place},
};

/// Adds the sums of the rows from `first` on.
pub fn look_up(lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    lookup.runs(tables, first, sums.len() / LOOKUP_ROWS, |group, run| {
        let sums = &mut sums[group * LOOKUP_ROWS..][..LOOKUP_ROWS];
        match run {
            Run::Triples { codes, signs, tables } => {
                for (at, (codes, tables)) in codes.iter().zip(tables).enumerate() {
                    let words = signs[at / 2].as_chunks::<2>().0;
                    for group in 0..4 {
                        let bit = 15 - 2 * (at % 2 * 4 + group);
                        for (row, sum) in sums.iter_mut().enumerate() {
                            let word = u16::from_le_bytes(words[row % 16]);
                            let entry = entry(tables, group, codes[byte(group, row)]);
                            let negative = word >> (bit - row / 16) & 1 == 1;
                            *sum += if negative { -entry } else { entry };
                        }
                    }
                }
            }
            Run::Pairs { codes, tables, split } => {
                for (codes, tables) in codes.iter().zip(tables) {
                    for group in 0..4 {
                        for (row, sum) in sums.iter_mut().enumerate() {
                            let byte = if split { row / 16 * 32 + group / 2 * 16 + row % 16 } else { byte(group, row) };
                            *sum += entry(tables, group, codes[byte]);
                        }
                    }
                }
            }
        }
    });
}

/// Which of 64 bytes holds a row of a group in TL2: the rows 0-7, 16-23, 8-15, 24-31 of two groups, then of the others.
fn byte(group: usize, row: usize) -> usize {
    group / 2 * 32 + [0, 2, 1, 3][row / 8] * 8 + row % 8
}

/// The entry that a byte, whose high nibble is for the even groups, adds to a sum.
fn entry(tables: &Quad, group: usize, byte: u8) -> i32 {
    let (pair, slot) = place(group);
    let index = 16 * slot + usize::from(if group.is_multiple_of(2) { byte >> 4 } else { byte & 15 });
    i32::from(i16::from_le_bytes([tables.0[2 * pair][index], tables.0[2 * pair + 1][index]]))
}
