//! Malformed GGUF files at the level of the container: each refused with a reason, without panic, without large
//! allocations. Numbers in names are the cases of the project's list of malformed files.

use bitnet_gpu::{Error, bytes::Bytes, gguf::File};

use crate::common::{
    gguf_builder::{Gguf, Raw, Tensor, array, bool, f32, i32, i32s, raw, sample, str, strings, u32, u64},
    hostile::{allocated, refuse_all, row},
    touch::parse_and_touch,
};

/// First steps of every loader.
fn open(bytes: Bytes) -> Result<(), Error> {
    let file = File::parse(bytes)?;
    file.metadata().architecture()?;
    file.metadata().uint("test.count")?;
    Ok(())
}

/// The sample with one key changed.
fn key(name: &str, value: Raw) -> Vec<u8> {
    sample().with(name, value).build()
}

/// The sample with another tensor behind the others.
fn tensor(tensor: Tensor) -> Vec<u8> {
    sample().another(tensor).build()
}

#[test]
fn the_sample_is_valid() {
    let file = File::parse(sample().build().into()).unwrap();
    assert_eq!((file.metadata().len(), file.tensors().len()), (7, 4));
    assert_eq!(file.warnings(), [""; 0]);
    open(sample().build().into()).unwrap();
}

#[test]
fn headers() {
    let header = |n_tensors, n_pairs| Gguf::new().declaring(Some(n_tensors), Some(n_pairs)).build();
    let version = |version| sample().version(version).build();
    let mut rows = vec![
        row("1 empty", [], &["expected a GGUF file, found an empty file"]),
        row("4 big-endian", version(3u32.swap_bytes()), &["GGUF version", "2 or 3", "found 3 in big-endian order"]),
        row("5 version 0", version(0), &["GGUF version: expected 2 or 3, found 0"]),
        row("6 version 1", version(1), &["GGUF version: expected 2 or 3, found 1"]),
        row("7 version 4", version(4), &["GGUF version: expected 2 or 3, found 4"]),
        row("7 version 2^32-1", version(u32::MAX), &["GGUF version: expected 2 or 3, found 4294967295"]),
        row("13 header only", header(0, 0), &["key general.architecture is missing"]),
        row("13 header that promises a key", header(0, 1), &["metadata count: expected at most 0", "found 1"]),
        row("13 header that promises a tensor", header(1, 0), &["tensor count: expected at most 0", "found 1"]),
    ];
    for cut in 0..24 {
        rows.push(row(format!("2 cut at {cut}"), &sample().build()[..cut], &["expected"]));
    }
    // 10: products with 33 (smallest table entry), 14 (smallest pair) and struct sizes that wrap to something small.
    let wrapping = [14, 24, 32, 33, 56, 64, 88, 96, 104].map(|size| u64::MAX / size + 2);
    for count in [1 << 63, u64::MAX, 1 << 32].into_iter().chain(wrapping) {
        rows.push(row(format!("8, 10 tensors {count}"), header(count, 0), &["tensor count: expected at most 0"]));
        rows.push(row(format!("9, 10 pairs {count}"), header(0, count), &["metadata count: expected at most 0"]));
        rows.push(row(format!("10 both {count}"), header(count, count), &["count: expected at most 0"]));
        let long = sample().declaring(Some(count), None).build();
        rows.push(row(format!("8 tensors {count}, longer file"), long, &["tensor count: expected at most"]));
    }
    refuse_all(rows, open);
}

#[test]
fn files_of_other_formats_are_named() {
    let mut safetensors = 40u64.to_le_bytes().to_vec();
    safetensors.extend(b"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],");
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1187801280\n";
    let cases: &[(&[u8], &str)] = &[
        (b"GGML\x03\0\0\0", "old GGML file"),
        (b"lmgg\x03\0\0\0", "old GGML file"),
        (b"ggjt\x03\0\0\0", "old ggjt file"),
        (b"tjgg\x03\0\0\0", "old ggjt file"),
        (b"FUGG\0\0\0\x03", "big-endian GGUF file"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n  <html lang=en>", "an HTML page"),
        (b"<?xml version=\"1.0\"?><Error>", "an XML document"),
        (lfs.as_bytes(), "a Git-LFS pointer"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"\x80\x02}q\0X", "a Python pickle"),
        (b"\x80\x05\x95", "a Python pickle"),
        (&safetensors, "a safetensors file"),
        (b"{\"error\": \"no such model\"}", "a JSON document"),
        (b"Repository not found", "a file that begins with \"Repo\""),
    ];
    let rows = cases
        .iter()
        .map(|(bytes, what)| row(format!("3, 11, 12 {what}"), *bytes, &["file: expected a GGUF file, found", what]));
    refuse_all(rows.collect(), open);
}

#[test]
fn metadata_keys() {
    let key = |name: &[u8]| sample().pair(name, u32(1)).build();
    let mut rows = vec![
        row("14 empty key", key(b""), &["metadata key 7: expected 1 to 65535 bytes, found 0 bytes"]),
        row("14 key of 64 KiB", key(&[b'k'; 65536]), &["metadata key 7", "found 65536 bytes"]),
        row("16 not UTF-8", key(b"ab\xff"), &["metadata key 7: expected UTF-8 text, found byte 0xff"]),
        row("16 NUL", key(b"a\0b"), &["metadata key 7: expected no control characters", r#""a\0b""#]),
        row(
            "16 NUL and line break",
            key(b"a\0\nb"),
            &["metadata key 7: expected no control characters", r#""a\0\nb""#],
        ),
        row("17 twice", key(b"test.rate"), &["key test.rate: expected each key once", "places 2 and 7"]),
        row("17 twice, same type", key(b"test.count"), &["key test.count: expected each key once"]),
    ];
    for len in [u64::MAX - 7, u64::MAX, 1 << 63, 1 << 32, 9000] {
        let mut file = sample();
        file.pairs[1].key_len = Some(len);
        rows.push(row(format!("15 key length {len}"), file.build(), &["metadata key 1", &format!("{len} bytes")]));
    }
    refuse_all(rows, open);
}

#[test]
fn metadata_values() {
    let mut rows = Vec::new();
    for ty in [13, 255, u32::MAX] {
        rows.push(row(
            format!("18 type {ty}"),
            key("test.count", raw(ty, [0; 8])),
            &["value type of key test.count: expected 0 to 12"],
        ));
        rows.push(row(
            format!("18 element type {ty}"),
            key("test.count", array(ty, 1, [0; 8])),
            &["element type of key test.count: expected 0 to 12"],
        ));
    }
    for len in [(1u64 << 30) + 1, u64::MAX, u64::MAX - 7, 1 << 63] {
        let value = raw(8, len.to_le_bytes());
        rows.push(row(
            format!("19 string of {len}"),
            key("test.name", value),
            &["value of key test.name at byte", "left in the file"],
        ));
    }
    for ty in [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12] {
        for count in [1 << 60, (1 << 61) + 1, u64::MAX] {
            let value = array(ty, count, [0; 32]);
            rows.push(row(
                format!("20 {count} of type {ty}"),
                key("test.list", value),
                &["array of key test.list at byte", "left in the file"],
            ));
        }
    }
    for count in [1 << 20, 1 << 61, u64::MAX] {
        let value = array(8, count, [0; 64]);
        rows.push(row(
            format!("21 {count} strings"),
            key("test.list", value),
            &["array length of key test.list: expected at most"],
        ));
    }
    let nested = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(10_000);
    rows.extend([
        row("21 string cut off", Gguf::new().with("k", array(8, 2, [0; 15])).build(), &["array length of key k"]),
        row(
            "21 string too long",
            key("test.list", array(8, 1, u64::MAX.to_le_bytes())),
            &["element 0 of key test.list"],
        ),
        row(
            "22 nested arrays",
            key("test.list", raw(9, nested)),
            &["key test.list is not supported", "array of arrays"],
        ),
        row("23 empty array of arrays", key("test.list", array(9, 0, [])), &["key test.list is not supported"]),
        row("24 bool 2", key("test.flag", bool(2)), &["key test.flag: expected a bool stored as 0 or 1, found 2"]),
        row("24 bool 255", key("test.flag", bool(255)), &["key test.flag", "found 255"]),
        row("24 bools", key("test.flag", array(7, 3, [0, 1, 3])), &["key test.flag", "found 3"]),
        row(
            "45 token not UTF-8",
            key("tokenizer.ggml.tokens", strings(&[&b"ok"[..], b"\xc3"])),
            &["element 1 of key tokenizer.ggml.tokens: expected UTF-8 text, found byte 0xc3"],
        ),
        row(
            "45 name not UTF-8",
            key("general.name", str(b"a\xf0\x90")),
            &["value of key general.name: expected UTF-8"],
        ),
    ]);
    refuse_all(rows, open);
}

#[test]
fn keys_every_file_needs() {
    let arch = "general.architecture";
    let alignment = "general.alignment";
    let bad_alignment = "key general.alignment: expected a u32 power of two from 8 to 1048576, found";
    let mut rows = vec![
        row("25 i32", key(alignment, i32(32)), &[bad_alignment, "found i32"]),
        row("25 u64", key(alignment, u64(32)), &[bad_alignment, "found u64"]),
        row("25 string", key(alignment, str("32")), &[bad_alignment, "found string"]),
        row("26 missing", sample().without(arch).build(), &["key general.architecture is missing"]),
        row("26 empty", key(arch, str("")), &["key general.architecture: expected 1 to 64 bytes, found 0 bytes"]),
        row("26 1 MiB", key(arch, str([b'a'; 1 << 20])), &["key general.architecture", "found 1048576 bytes"]),
        row(
            "26 array",
            key(arch, strings(&["llama"])),
            &["key general.architecture: expected a string, found string array"],
        ),
        row("26 number", key(arch, u32(1)), &["key general.architecture: expected a string, found u32"]),
        row("27 float", key("test.count", f32(2.0)), &["key test.count: expected an integer, found f32"]),
        row("27 negative", key("test.count", i32(-1)), &["key test.count: expected a non-negative integer, found -1"]),
        row("27 string", key("test.count", str("2")), &["key test.count: expected an integer, found string"]),
        row("27 array", key("test.count", i32s(&[2])), &["key test.count: expected an integer, found i32 array"]),
        row("65 split", key("split.count", raw(2, [3, 0])), &["key split.no is missing"]),
    ];
    for value in [0, 1, 3, 4, 33, 1 << 31, u32::MAX] {
        rows.push(row(format!("25 alignment {value}"), key(alignment, u32(value)), &[bad_alignment]));
    }
    refuse_all(rows, open);
}

#[test]
fn tensor_names_and_dimensions() {
    let named = |name: &[u8]| tensor(Tensor::f32(name, &[8]));
    let dims = |dims: &[u64]| tensor(Tensor::new("t", dims, 0, vec![0; 64]));
    let mut rows = vec![
        row("48 empty", named(b""), &["name of tensor 4: expected 1 to 63 bytes, found 0 bytes"]),
        row("48 64 bytes", named(&[b'n'; 64]), &["name of tensor 4: expected 1 to 63 bytes, found 64 bytes"]),
        row(
            "48 escape sequence",
            named(b"a\x1b[2J"),
            &["name of tensor 4: expected no control characters", r#""a\u{1b}[2J""#],
        ),
        row("48 NUL", named(b"a\0"), &["name of tensor 4: expected no control characters"]),
        row("48 not UTF-8", named(b"\x80"), &["name of tensor 4: expected UTF-8"]),
        row("48 twice", named(b"token_embd.weight"), &["tensor token_embd.weight: expected each name once", "2 and 4"]),
        row("48 path", named(b"../../.bashrc"), &["name of tensor 4: expected no \"..\" between slashes"]),
        row("51 2^63", dims(&[1 << 63]), &["tensor t: expected fewer than 2^63 elements, found [9223372036854775808]"]),
        row("52 wraps to 2^22", dims(&[(1 << 42) + 1, 1 << 22]), &["tensor t: expected fewer than 2^63 elements"]),
        row("52 wraps to 0", dims(&[1 << 32, 1 << 32]), &["tensor t: expected fewer than 2^63 elements"]),
        row("52 2^64-1 twice", dims(&[u64::MAX, u64::MAX, 2, 2]), &["tensor t: expected fewer than 2^63 elements"]),
        row("52 bytes wrap", dims(&[1 << 62]), &["tensor t: expected a size below 2^64 bytes"]),
        row("52 2^62 - 1", dims(&[(1 << 62) - 1]), &["tensor t: expected 18446744073709551612 bytes of F32, found 64"]),
    ];
    for n_dims in [0, 5, u32::MAX] {
        let file = tensor(Tensor::f32("t", &[8]).declaring_dims(n_dims));
        rows.push(row(format!("49 {n_dims} dimensions"), file, &["number of dimensions of tensor t: expected 1 to 4"]));
    }
    for zero in 0..4 {
        let mut dims = [1, 1, 1, 1];
        dims[zero] = 0;
        let alone = Gguf::new().tensor(Tensor::new("t", &dims, 0, vec![])).build();
        rows.push(row(
            format!("50 dimension {zero} is 0"),
            alone,
            &["tensor t: expected dimensions of at least 1, found ["],
        ));
    }
    refuse_all(rows, open);
}

#[test]
fn tensor_types_and_sizes() {
    let typed = |id, dims: &[u64], bytes: usize| tensor(Tensor::new("t", dims, id, vec![0; bytes]));
    let mut rows = vec![
        row(
            "53 Q8_0 row",
            typed(8, &[48, 2], 102),
            &["tensor t: expected the row length to be a multiple of 32 for Q8_0, found 48"],
        ),
        row("53 TQ1_0 row", typed(34, &[128, 2], 54), &["tensor t", "a multiple of 256 for TQ1_0, found 128"]),
        row("53 TQ2_0 row", typed(35, &[257], 132), &["tensor t", "a multiple of 256 for TQ2_0, found 257"]),
        row(
            "53 I2_S",
            typed(36, &[7], 64),
            &["tensor t", "the number of elements to be a multiple of 4 for I2_S, found 7"],
        ),
        row(
            "53 IQ2_BN_R4",
            typed(335, &[64, 3], 60),
            &["tensor t", "the number of rows to be a multiple of 4 for IQ2_BN_R4"],
        ),
        row("54 36 in the size of IQ4_NL", typed(36, &[32], 18), &["tensor t: expected 40 bytes of I2_S, found 18"]),
        row("54 38 in the size of IQ4_NL", typed(38, &[128], 63), &["tensor t: expected 64 bytes of TL1, found 63"]),
        row(
            "54 39, no reading fits",
            typed(39, &[512, 32], 400),
            &["tensor t of type id 39", "bytes of TL2", "8704 bytes of MXFP4", "found 400"],
        ),
        row(
            "54 39, no such shape",
            typed(39, &[16], 400),
            &["tensor t of type id 39", "no TL2 of this shape or no MXFP4 of this shape"],
        ),
        row(
            "54 42, no reading fits",
            typed(42, &[128, 2], 67),
            &["tensor t of type id 42", "72 bytes of Q2_0", "68 bytes of Q2_0_G128"],
        ),
        row(
            "54 42, two readings fit",
            typed(42, &[128], 64),
            &["tensor t of type id 42 is not supported", "Q2_0, Q2_0_G128"],
        ),
    ];
    let mixed = sample()
        .another(Tensor::new("g64", &[4096], 42, vec![0; 64 * 18]))
        .another(Tensor::new("g128", &[4096, 2], 42, vec![0; 64 * 34]))
        .another(Tensor::f32("end", &[8]));
    rows.push(row(
        "54 42, mixed readings",
        mixed.build(),
        &["tensor g128 of type id 42: expected 2304 bytes of Q2_0, found 2176"],
    ));
    for id in [4, 5, 31, 32, 33, 37, 43, 255, 256, 1 << 31, u32::MAX] {
        rows.push(row(
            format!("54 type {id}"),
            typed(id, &[256], 1024),
            &["tensor t: expected a known tensor type, found type id", &id.to_string()],
        ));
    }
    refuse_all(rows, open);
}

#[test]
fn tensor_places() {
    let place = |offset| sample().edit("token_embd.weight", |tensor| tensor.offset = Some(offset)).build();
    let named = "offset of tensor token_embd.weight";
    let mut rows = vec![
        row("55 unaligned", place(129), &[named, "expected a multiple of 32, found 129"]),
        row("55 past the end", place(1 << 20), &[named, "expected less than"]),
        row("55 offset + start wraps", place(u64::MAX - 31), &[named, "expected less than"]),
        row("55 2^63", place(1 << 63), &[named, "expected less than"]),
        row("55 same as before", place(32), &[named, "more than that of blk.0.attn_q.weight before it, 32, found 32"]),
        row("55 descending", place(0), &[named, "more than that of blk.0.attn_q.weight before it, 32, found 0"]),
        row(
            "55 overlapping",
            place(64),
            &["tensor blk.0.attn_q.weight: expected 96 bytes of I2_S, found 32 before tensor token_embd.weight begins"],
        ),
    ];
    let whole = sample().build();
    for cut in [whole.len() / 10, whole.len() / 2, whole.len() - 1, whole.len() - 32, whole.len() - 33] {
        rows.push(row(format!("57 cut at {cut} of {}", whole.len()), &whole[..cut], &["expected", "found"]));
    }
    rows.push(row(
        "57 I2_S without its scale",
        &whole[..whole.len() - 32],
        &["tensor blk.0.attn_k.weight: expected 64 bytes of I2_S, found 32 before the file ends"],
    ));
    refuse_all(rows, open);
}

#[test]
fn unused_bytes_are_accepted_with_a_warning() {
    let whole = sample().build();
    let warnings = |bytes: Vec<u8>| File::parse(bytes.into()).unwrap().warnings().to_vec();
    assert_eq!(warnings([whole.clone(), vec![1; 100]].concat()), ["100 bytes after the last tensor are not used"]);
    let shifted = sample().edit("blk.0.attn_k.weight", |tensor| tensor.offset = Some(32 + 96 + 128 + 64));
    let bytes = [shifted.build(), vec![0; 64]].concat();
    assert_eq!(warnings(bytes), ["64 bytes between tensors are not used"]);
    // Padding of the last tensor is not worth a word.
    let padded = Gguf::new().tensor(Tensor::f32("t", &[1])).build();
    assert_eq!(warnings([padded, vec![0; 28]].concat()), [""; 0]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = sample().build();
    let rows = (0..whole.len()).map(|cut| row(format!("cut at {cut}"), &whole[..cut], &["expected"]));
    refuse_all(rows.collect(), open);
}

/// Any change of one byte before the data is either refused or harmless.
#[test]
fn no_changed_byte_of_the_head_makes_it_panic() {
    let whole = sample().build();
    let (mut accepted, mut refused) = (0, 0);
    for at in 0..sample().head().len() {
        for flip in 1..=255 {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let (outcome, memory) = allocated(|| parse_and_touch(&bytes));
            assert!(memory.peak < 8 * whole.len() + (1 << 20), "byte {at} ^ {flip}: {} bytes of memory", memory.peak);
            *(if outcome.is_ok() { &mut accepted } else { &mut refused }) += 1;
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}

/// Even files that are valid and made to blow up in memory stay within a small multiple of their length.
#[test]
fn memory_follows_the_length_of_the_file() {
    let empty_strings = Gguf::new().with("k", array(8, (1 << 20) + 1, vec![0; (8 << 20) + 8])).build();
    let mut many_keys = Gguf::new();
    let mut many_tensors = Gguf::new();
    for at in 0..50_000u32 {
        many_keys = many_keys.pair(format!("{at}"), bool(0));
        many_tensors = many_tensors.another(Tensor::new(format!("{at}"), &[1], 24, vec![0]));
    }
    for (name, file) in [("strings", empty_strings), ("keys", many_keys.build()), ("tensors", many_tensors.build())] {
        let len = file.len();
        let bytes = Bytes::from(file);
        let (parsed, memory) = allocated(|| File::parse(bytes).unwrap());
        let peak = memory.peak;
        eprintln!("{name}: file {len} bytes, peak {peak} bytes");
        assert!(peak < 8 * len + (1 << 20), "{name}: {peak} bytes of memory for a file of {len}");
        drop(parsed);
    }
}
