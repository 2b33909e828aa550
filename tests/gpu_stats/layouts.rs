//! The layouts that naga 30 gives types of variables that may have none: SPIR-V's validator names the first one of a module
//! and says no more (<https://github.com/gfx-rs/wgpu/issues/7696>).

use std::collections::{HashMap, HashSet};

/// Words before the first instruction.
const HEADER_WORDS: usize = 5;

// Numbers of instructions, decorations and storage classes, from the specification.
const TYPE_ARRAY: u32 = 28;
const TYPE_RUNTIME_ARRAY: u32 = 29;
const TYPE_STRUCT: u32 = 30;
const TYPE_POINTER: u32 = 32;
const DECORATE: u32 = 71;
const MEMBER_DECORATE: u32 = 72;
const ARRAY_STRIDE: u32 = 6;
const OFFSET: u32 = 35;
const UNIFORM: u32 = 2;
const PUSH_CONSTANT: u32 = 9;
const STORAGE_BUFFER: u32 = 12;

fn instructions(words: &[u32]) -> impl Iterator<Item = (u32, &[u32])> {
    let mut rest = &words[HEADER_WORDS..];
    std::iter::from_fn(move || {
        let (instruction, behind) = rest.split_at(usize::try_from(*rest.first()? >> 16).unwrap());
        rest = behind;
        Some((instruction[0] & 0xffff, instruction))
    })
}

/// Types, and those inside them, that variables in buffers have: these must have a layout.
fn laid_out(words: &[u32]) -> HashSet<u32> {
    let mut inside: HashMap<u32, &[u32]> = HashMap::new();
    let mut open = Vec::new();
    for (code, operands) in instructions(words) {
        match code {
            TYPE_ARRAY | TYPE_RUNTIME_ARRAY => _ = inside.insert(operands[1], &operands[2..3]),
            TYPE_STRUCT => _ = inside.insert(operands[1], &operands[2..]),
            TYPE_POINTER if [UNIFORM, PUSH_CONSTANT, STORAGE_BUFFER].contains(&operands[2]) => open.push(operands[3]),
            _ => {}
        }
    }
    let mut found = HashSet::new();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(inside.get(&id).into_iter().copied().flatten());
        }
    }
    found
}

/// The module without the layouts of types that only other variables have.
pub fn without_surplus(words: &[u32]) -> Vec<u32> {
    let laid_out = laid_out(words);
    let is_surplus = |(code, operands): &(u32, &[u32])| {
        let is_layout = match *code {
            DECORATE => operands[2] == ARRAY_STRIDE,
            MEMBER_DECORATE => operands[3] == OFFSET,
            _ => false,
        };
        is_layout && !laid_out.contains(&operands[1])
    };
    let kept = instructions(words).filter(|instruction| !is_surplus(instruction));
    [&words[..HEADER_WORDS]].into_iter().chain(kept.map(|(_, operands)| operands)).flatten().copied().collect()
}
