//! Lines of an answer on a terminal: broken between words, as the text comes.
//!
//! In: pieces of text, with the codes of [`Voice`](super::voice::Voice) in them. Out: what of it can be printed, with line
//! breaks. A word waits until it is known to be whole, which the next token tells: nothing that was printed is taken back.

use std::{
    env,
    io::{self, IsTerminal},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Begin and end a block of code, at the start of a line.
const FENCES: [&str; 2] = ["```", "~~~"];

/// Columns between the stops of tabs.
const TAB: usize = 8;

/// Breaks the lines of one answer.
pub struct Wrap {
    /// Columns of a line; `None` leaves the text as it is.
    columns: Option<usize>,
    /// Columns taken on the line so far.
    column: usize,
    /// White space behind them, which a line break replaces.
    space: String,
    /// A word that may go on.
    word: String,
    /// Whether the word is the first one of its line.
    begins_line: bool,
    in_code: bool,
    in_escape: bool,
}

impl Wrap {
    /// For standard output: anything but a terminal gets the text as it is.
    pub fn of_stdout() -> Self {
        let is_able = env::var_os("TERM").is_none_or(|term| term != "dumb");
        let size = (io::stdout().is_terminal() && is_able).then(terminal_size::terminal_size).flatten();
        Self::new(size.map(|(columns, _)| usize::from(columns.0)))
    }

    fn new(columns: Option<usize>) -> Self {
        Self {
            // The last column stays free: terminals differ in where the cursor is once it is taken.
            columns: columns.and_then(|columns| columns.checked_sub(1)).filter(|&columns| columns > 0),
            column: 0,
            space: String::new(),
            word: String::new(),
            begins_line: true,
            in_code: false,
            in_escape: false,
        }
    }

    /// Text to print now that `piece` has come.
    pub fn push(&mut self, piece: &str) -> String {
        let Some(columns) = self.columns else { return piece.to_owned() };
        let mut out = String::new();
        for c in piece.chars() {
            if self.in_escape || c == '\x1b' {
                // The codes here end with a letter; they take no room.
                self.in_escape = !c.is_ascii_alphabetic();
                self.word.push(c);
                continue;
            }
            match c {
                '\n' => {
                    self.place_word(columns, &mut out);
                    // White space at the end of a line may mean something to who copies it.
                    out += &std::mem::take(&mut self.space);
                    out.push('\n');
                    (self.column, self.begins_line) = (0, true);
                }
                c if c.is_whitespace() && !is_unbroken(c) => {
                    self.place_word(columns, &mut out);
                    self.space.push(c);
                }
                c => {
                    if may_break(&self.word, c) {
                        self.place_word(columns, &mut out);
                    }
                    self.word.push(c);
                }
            }
        }
        out
    }

    /// Text held back, at the end of the answer.
    pub fn end(&mut self) -> String {
        let mut out = String::new();
        if let Some(columns) = self.columns {
            self.place_word(columns, &mut out);
            out += &std::mem::take(&mut self.space);
        }
        out
    }

    fn place_word(&mut self, columns: usize, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let (space, word) = (std::mem::take(&mut self.space), std::mem::take(&mut self.word));
        let bare = without_escapes(&word);
        let is_fence = self.begins_line && FENCES.iter().any(|fence| bare.starts_with(fence));
        self.in_code ^= is_fence;
        self.begins_line &= bare.is_empty();
        let start = space.chars().fold(self.column, |column, c| match c {
            '\t' => (column / TAB + 1) * TAB,
            c => column + c.width().unwrap_or(0),
        });
        let width = bare.width();
        let is_full = self.column > 0 && start + width > columns;
        if is_full && !self.in_code && !is_fence {
            out.push('\n');
            self.column = 0;
        } else {
            *out += &space;
            self.column = start;
        }
        *out += &word;
        // What is longer than a line is broken by the terminal.
        self.column = (self.column + width) % (columns + 1);
    }
}

/// Spaces that are meant to keep words together.
fn is_unbroken(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{202f}')
}

/// Whether a line may end between `word` and `next` without a space: around the characters of Chinese and Japanese, but not
/// before a mark that closes nor behind one that opens.
fn may_break(word: &str, next: char) -> bool {
    const OPEN: &str = "（［｛「『【〈《〔“‘";
    const CLOSE: &str = "）］｝」』】〉》〕”’、。，．：；？！…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ";
    let Some(last) = without_escapes(word).chars().next_back() else { return false };
    let is_wide = |c: char| c.width() == Some(2);
    // A joiner makes one picture of two.
    let is_one = last == '\u{200d}' || next.width() == Some(0);
    (is_wide(last) || is_wide(next)) && !is_one && !OPEN.contains(last) && !CLOSE.contains(next)
}

fn without_escapes(word: &str) -> String {
    let mut in_escape = false;
    let is_text = |c: &char| {
        let is_code = in_escape || *c == '\x1b';
        in_escape = is_code && !c.is_ascii_alphabetic();
        !is_code
    };
    word.chars().filter(is_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece, and character by character, which must make no difference.
    fn wrapped(columns: usize, text: &str) -> String {
        let mut wrap = Wrap::new(Some(columns));
        let whole = wrap.push(text) + &wrap.end();
        let mut wrap = Wrap::new(Some(columns));
        let pieces: String = text.chars().map(|c| wrap.push(c.encode_utf8(&mut [0; 4]))).collect();
        assert_eq!(pieces + &wrap.end(), whole);
        whole
    }

    #[test]
    fn lines_break_between_words() {
        // Of 11 columns 10 are used.
        assert_eq!(wrapped(11, "one two three four"), "one two\nthree four");
        assert_eq!(wrapped(11, "one two th four"), "one two th\nfour");
        assert_eq!(wrapped(11, "  one   two   three\n\n- x y"), "  one\ntwo\nthree\n\n- x y");
        assert_eq!(wrapped(11, "a\tbc d"), "a\tbc\nd", "a tab ends at column 8");
        assert_eq!(wrapped(11, "one\u{a0}two three"), "one\u{a0}two\nthree");
        assert_eq!(wrapped(11, "one \n two "), "one \n two ");
    }

    #[test]
    fn a_word_longer_than_a_line_begins_one_and_is_left_whole() {
        assert_eq!(wrapped(11, "see https://example.org/a now"), "see\nhttps://example.org/a\nnow");
        assert_eq!(wrapped(1, "one two"), "one two", "no room at all");
    }

    #[test]
    fn a_word_is_printed_once_it_is_whole() {
        let mut wrap = Wrap::new(Some(80));
        assert_eq!((wrap.push("Once up"), wrap.push("on a"), wrap.end()), ("Once".into(), " upon".into(), " a".into()));
        let mut plain = Wrap::new(None);
        assert_eq!((plain.push("Once up"), plain.end()), ("Once up".into(), String::new()));
    }

    #[test]
    fn code_keeps_its_lines() {
        let code = "```sh\na long command --with flags\n```\n";
        assert_eq!(wrapped(11, &format!("{code}and then on")), format!("{code}and then\non"));
        assert_eq!(wrapped(11, "~~~\na b c d e f g h\n~~~"), "~~~\na b c d e f g h\n~~~");
        assert_eq!(wrapped(11, "the ``` in a line is none"), "the ``` in\na line is\nnone");
    }

    #[test]
    fn wide_characters_take_two_columns_and_break_anywhere_but_at_marks() {
        assert_eq!(wrapped(11, "你好世界你好世界"), "你好世界你\n好世界");
        assert_eq!(wrapped(11, "你好世界你。好"), "你好世界\n你。好", "no line begins with the mark");
        assert_eq!(wrapped(11, "你好世界「你」"), "你好世界\n「你」", "and none ends with the other");
        assert_eq!(wrapped(11, "abc 你好世界"), "abc 你好世\n界");
        assert_eq!(wrapped(5, "abc👩\u{200d}🚀"), "abc\n👩\u{200d}🚀", "one picture");
        assert_eq!(wrapped(7, "ne\u{301}e ne\u{301}e"), "ne\u{301}e\nne\u{301}e", "an accent takes no room");
    }

    #[test]
    fn codes_take_no_room() {
        assert_eq!(wrapped(11, "\x1b[2mone two three\x1b[0m"), "\x1b[2mone two\nthree\x1b[0m");
        assert_eq!(wrapped(11, "\x1b[2mone\x1b[0m\n\n```\na b c d e f"), "\x1b[2mone\x1b[0m\n\n```\na b c d e f");
        assert_eq!(wrapped(11, "\x1b[2m```\na b c d e f"), "\x1b[2m```\na b c d e f");
    }
}
