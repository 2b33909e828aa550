//! `tokenizer.model` of SentencePiece's Unigram kind, alone in a directory. The two files were trained by the sentencepiece
//! package (0.2.3) on this project's documents, with the user-defined symbols `<tool>`, two spaces and `é!`, and a map of a few
//! characters; the ids are what `SentencePieceProcessor.encode` of that package gives for them.

use bitnet_gpu::{
    convert::in_memory,
    tokenizer::{EncodeOptions, Tokenizer},
};
use std::{fs, path::Path};

use super::support::{Case, Model};

const ROWS: usize = 362;

/// The tokenizer of a directory with that file, run as it is and converted.
fn tokenizers(name: &str) -> [Tokenizer; 2] {
    let mut model = Model::llama();
    model.config["vocab_size"] = ROWS.into();
    model.matrix("model.embed_tokens.weight", ROWS, super::support::DIM);
    let case = Case::of(&model);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert/unigram").join(name);
    fs::copy(file, case.input().join("tokenizer.model")).unwrap();
    let files = [in_memory(&case.input(), None).unwrap(), case.file()];
    files.map(|file| Tokenizer::from_gguf(file.metadata()).unwrap())
}

fn check(name: &str, expected: &[(&str, &[u32])]) -> [Tokenizer; 2] {
    let tokenizers = tokenizers(name);
    for tokenizer in &tokenizers {
        assert_eq!(tokenizer.vocab_size(), ROWS);
        for (text, ids) in expected {
            assert_eq!(tokenizer.encode(text, &EncodeOptions::default()).unwrap(), *ids, "{text:?}");
        }
    }
    tokenizers
}

/// Characters without a token are spelled in bytes; spaces are trimmed, and one comes first.
#[test]
fn a_model_with_bytes() {
    let tokenizers = check(
        "bytes.model",
        &[
            ("Hello world", &[262, 78, 266, 286, 286, 277, 262, 305, 277, 281, 286, 280]),
            (
                "  two  spaces   and more  ",
                &[262, 268, 305, 277, 262, 262, 263, 275, 273, 284, 321, 262, 282, 262, 274, 277, 306],
            ),
            ("<tool>a <tool> b", &[262, 3, 273, 262, 3, 262, 300]),
            (
                "the model's weights are \u{200b}ternary",
                &[269, 319, 337, 263, 262, 305, 266, 278, 288, 299, 268, 263, 272, 306, 262, 268, 295, 276, 331, 292],
            ),
            ("ＡＢａ ﬁne", &[334, 336, 273, 317, 310, 266]),
            (
                "cafe\u{301} and café! 日本語 Ω",
                &[
                    262, 284, 273, 304, 201, 175, 282, 262, 284, 273, 304, 5, 262, 236, 157, 171, 236, 162, 178, 238,
                    176, 164, 262, 212, 175,
                ],
            ),
            ("a\u{a0}b\u{3000}c", &[272, 262, 300, 262, 284]),
            ("", &[]),
            ("   ", &[]),
            ("\n\nline\tbreak", &[262, 16, 16, 286, 310, 266, 15, 300, 306, 273, 323]),
            ("aé!b", &[272, 5, 300]),
            ("\u{fdfa} x", &[262, 222, 187, 223, 138, 223, 143, 262, 222, 173, 223, 138, 223, 138, 223, 141, 262, 342]),
            ("日本", &[262, 236, 157, 171, 236, 162, 178]),
            ("▁under▁score", &[262, 262, 285, 276, 280, 295, 262, 263, 284, 277, 306]),
            (" <s> </s> <unk>", &[262, 66, 263, 68, 262, 66, 296, 263, 68, 262, 66, 285, 276, 323, 68]),
        ],
    );
    for tokenizer in &tokenizers {
        let ids = tokenizer.encode("cafe\u{301} and café! 日本語", &EncodeOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), "café and café! 日本語");
        let all = EncodeOptions { add_special: true, parse_special: true };
        assert_eq!(tokenizer.encode("a</s>", &all).unwrap(), [1, 272, 2]);
    }
}

/// Without bytes, and with all spaces.
#[test]
fn a_model_with_an_unknown_token() {
    check(
        "unknown.model",
        &[
            ("Hello world", &[0, 224, 18, 6, 32, 18, 28, 36, 26]),
            ("  two  spaces   and more  ", &[6, 6, 13, 32, 18, 6, 6, 7, 15, 225, 7, 6, 6, 25, 6, 20, 18, 45, 6, 6]),
            ("<tool>a <tool> b", &[3, 17, 6, 3, 6, 46]),
            ("the model's weights are \u{200b}ternary", &[168, 61, 83, 7, 167, 111, 6, 13, 172]),
            ("ＡＢａ ﬁne", &[122, 81, 17, 71, 57, 9]),
            ("cafe\u{301} and café! 日本語 Ω", &[29, 17, 49, 0, 25, 6, 29, 17, 49, 5, 6, 0, 6, 0]),
            ("a\u{a0}b\u{3000}c", &[17, 6, 46, 6, 29]),
            ("", &[]),
            ("   ", &[6, 6, 6]),
            ("\n\nline\tbreak", &[0, 36, 57, 9, 0, 46, 45, 17, 65]),
            ("aé!b", &[17, 5, 46]),
            ("\u{fdfa} x", &[0, 6, 0, 6, 98]),
            ("日本", &[0]),
            ("▁under▁score", &[6, 194, 43, 6, 7, 29, 18, 45]),
            (" <s> </s> <unk>", &[6, 0, 7, 0, 6, 0, 42, 7, 0, 6, 0, 31, 24, 65, 0]),
        ],
    );
}
