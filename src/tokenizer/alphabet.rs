//! GPT-2's alphabet: 256 printable characters that spell the bytes of a text.

/// Bytes that stand for themselves in GPT-2's alphabet; the other 68 are U+0100 and up, in order.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// GPT-2's alphabet: the character that spells each byte.
pub(super) const ALPHABET: [char; 256] = {
    let mut alphabet = ['\0'; 256];
    let mut others = 0;
    let mut byte = 0;
    while byte < 256 {
        if is_printable(byte as u8) {
            alphabet[byte] = byte as u8 as char;
        } else {
            alphabet[byte] = match char::from_u32(0x100 + others) {
                Some(c) => c,
                None => panic!("U+0100 to U+0143 are characters"),
            };
            others += 1;
        }
        byte += 1;
    }
    alphabet
};

/// The byte a character of GPT-2's alphabet stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            // The bytes that do not stand for themselves are 0 to 32, 127 to 160 and 173.
            match u8::try_from((c as u32).checked_sub(0x100)?).ok()? {
                other @ 0..=32 => Some(other),
                other @ 33..=66 => Some(other - 33 + 127),
                67 => Some(173),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        // Named in GPT-2's own vocabulary: space is Ġ, newline Ċ, tab ĉ, delete ġ, U+00AD's byte Ń.
        let named =
            [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'\t', 'ĉ'), (0, 'Ā'), (127, 'ġ'), (173, 'Ń'), (b'a', 'a'), (255, 'ÿ')];
        for (byte, c) in named {
            assert_eq!(ALPHABET[usize::from(byte)], c);
        }
        for byte in 0..=255 {
            assert_eq!(byte_of(ALPHABET[usize::from(byte)]), Some(byte));
        }
        assert_eq!([byte_of(' '), byte_of('\u{ad}'), byte_of('\u{144}'), byte_of('▁')], [None; 4]);
    }
}
