//! Models split into files as llama.cpp's `llama-gguf-split` does: opened by any part, and refused when parts are
//! missing or do not belong together.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use bitnet_gpu::{
    bytes::{Access, Bytes},
    convert::{ConvertOptions, convert},
    gguf::{File, Metadata, TensorSpec, Value, Writer},
};

use crate::common::{
    cli::run,
    gguf_builder::{Gguf, Tensor, raw, str, u32},
};

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// Writes the built-in model in `count` parts; gives their paths.
fn split(folder: &Path, count: usize) -> Vec<PathBuf> {
    let file = File::open(Path::new(BUILT_IN)).unwrap();
    let share = file.tensors().len().div_ceil(count);
    let mut paths = Vec::new();
    for (no, tensors) in file.tensors().chunks(share).enumerate() {
        let mut metadata = if no == 0 { file.metadata().clone() } else { Metadata::default() };
        metadata.set("split.no", Value::U16(no as u16));
        metadata.set("split.count", Value::U16(count as u16));
        metadata.set("split.tensors.count", Value::I32(file.tensors().len() as i32));
        let spec = |info: &bitnet_gpu::gguf::TensorInfo| TensorSpec {
            name: info.name.clone(),
            dims: info.dims.clone(),
            ty: info.ty,
        };
        let path = folder.join(format!("stories-{:05}-of-{count:05}.gguf", no + 1));
        let out = fs::File::create(&path).unwrap();
        let mut writer = Writer::create(&metadata, tensors.iter().map(spec).collect(), out).unwrap();
        for info in tensors {
            writer.write_tensor(&info.name, &file.data(info)).unwrap();
        }
        writer.finish().unwrap();
        paths.push(path);
    }
    assert_eq!(paths.len(), count);
    paths
}

#[test]
fn any_part_opens_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = File::open(Path::new(BUILT_IN)).unwrap();
    for path in split(folder.path(), 3) {
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata(), whole.metadata(), "without the keys of the split");
        assert_eq!((file.parts().len(), file.warnings().len()), (3, 0));
        assert_eq!(file.tensors().len(), whole.tensors().len());
        for info in whole.tensors() {
            let found = file.tensor(&info.name).unwrap();
            assert!(file.data(found)[..] == whole.data(info)[..], "{}", info.name);
        }
    }
}

#[test]
fn every_part_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let paths = split(folder.path(), 3);
    let lens: Vec<u64> = paths.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    let told = RefCell::new(Vec::new());
    let file = File::open_with(&paths[1], Access::Copy(&|done, all| told.borrow_mut().push((done, all)))).unwrap();
    // The given one comes first; each is smaller than a piece.
    assert_eq!(told.into_inner(), [lens[1], lens[0], lens[2]].map(|len| (len, len)));
    folder.close().unwrap();
    let whole = File::open(Path::new(BUILT_IN)).unwrap();
    for info in whole.tensors() {
        let data = file.data(file.tensor(&info.name).unwrap());
        assert!(!data.is_mapped() && data[..] == whole.data(info)[..], "{}", info.name);
    }
}

#[test]
fn it_runs_is_inspected_and_becomes_one_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let paths = split(folder.path(), 4);
    let last = paths[3].to_str().unwrap();
    let story = |model: &str| {
        let args = ["run", "-m", model, "-p", "The dog", "-n", "8", "--temp", "0", "--backend", "cpu", "--json"];
        run(&args).json()["tokens"].clone()
    };
    assert_eq!(story(last), story(BUILT_IN));

    let report = run(&["inspect", last, "--check", "--json"]).json();
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[0]["name"], "stories-00001-of-00004.gguf");
    assert_eq!(parts.iter().map(|part| part["tensors"].as_u64().unwrap()).sum::<u64>(), 46);
    assert_eq!(report["tensors"].as_array().unwrap().last().unwrap()["part"], 4);
    let text = run(&["inspect", last]).stdout;
    assert!(text.contains("part stories-00002-of-00004.gguf, "), "{text}");

    let out = folder.path().join("whole.gguf");
    convert(&paths[1], &out, &ConvertOptions::default()).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(BUILT_IN).unwrap(), "another file than the one that was split");
    let onto = convert(&paths[1], &paths[2], &ConvertOptions { force: true, ..Default::default() }).unwrap_err();
    assert!(onto.to_string().contains("part of the input"), "{onto}");
}

/// A part with one tensor.
fn part(no: u16, count: u16, tensor: &str) -> Gguf {
    let u16 = |value: u16| raw(2, value.to_le_bytes());
    let gguf = Gguf::new().with("split.no", u16(no)).with("split.count", u16(count));
    let gguf = if no == 0 { gguf.with("general.architecture", str("llama")) } else { gguf };
    gguf.with("split.tensors.count", u32(2)).tensor(Tensor::f32(tensor, &[8]))
}

/// Two parts that belong together, before `change` comes to them; gives what opening the first says.
fn opened(change: impl FnOnce(&Path, &mut [Gguf; 2])) -> Result<File, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = [part(0, 2, "a.weight"), part(1, 2, "b.weight")];
    let path = |no: usize| folder.path().join(format!("m-0000{}-of-00002.gguf", no + 1));
    // Written before, so that a change may take a file away.
    parts.iter().enumerate().for_each(|(no, part)| fs::write(path(no), part.build()).unwrap());
    let before = parts.clone();
    change(folder.path(), &mut parts);
    for (no, part) in parts.iter().enumerate() {
        if part.build() != before[no].build() {
            fs::write(path(no), part.build()).unwrap();
        }
    }
    File::open(&path(0)).map_err(|e| {
        let text = e.to_string();
        assert!(!text.contains('\n'));
        text.replace(&format!("{}/", folder.path().display()), "")
    })
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let good = opened(|_, _| ()).unwrap();
    assert_eq!((good.tensors().len(), good.metadata().len()), (2, 1));

    let u16 = |value: u16| raw(2, value.to_le_bytes());
    type Change<'a> = Box<dyn FnOnce(&Path, &mut [Gguf; 2]) + 'a>;
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|folder, _| fs::remove_file(folder.join("m-00002-of-00002.gguf")).unwrap()),
            "m-00002-of-00002.gguf is missing (needed for the model is split into 2 files)",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 3, "b.weight")),
            "m-00002-of-00002.gguf: key split.count: expected 2, found 3",
        ),
        (
            Box::new(|_, parts| parts[1] = part(0, 2, "b.weight")),
            "m-00002-of-00002.gguf: key split.no: expected 1, found 0",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "a.weight")),
            "m-00002-of-00002.gguf: tensor a.weight: expected each name once, found it in part 1 as well",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "b.weight").with("general.architecture", str("qwen3"))),
            "m-00002-of-00002.gguf: key general.architecture: expected the value of the first part, found another one",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "b.weight").with("general.name", str("other"))),
            "m-00002-of-00002.gguf: key general.name: expected the value of the first part, found one that the first has not",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "b.weight").with("split.tensors.count", u32(3))),
            "m-00002-of-00002.gguf: key split.tensors.count: expected 2, found 3",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "b.weight").tensor(Tensor::f32("c.weight", &[8]))),
            "m-00001-of-00002.gguf: tensors of all parts: expected 2 by key split.tensors.count, found 3",
        ),
        (
            Box::new(|_, parts| parts[1] = part(1, 2, "b.weight").without("split.count")),
            "m-00002-of-00002.gguf: key split.count: expected 2, found no such key",
        ),
        (
            Box::new(|_, parts| parts[0] = part(0, 2, "a.weight").without("split.no")),
            "m-00001-of-00002.gguf: key split.no is missing (needed for the order of the parts)",
        ),
        (
            Box::new(|_, parts| parts[0] = part(0, 2, "a.weight").with("split.no", u16(2))),
            "m-00001-of-00002.gguf: key split.no: expected 0 to 1, as there are 2 parts, found 2",
        ),
        (
            Box::new(|_, parts| parts[0] = part(0, 3, "a.weight")),
            "m-00001-of-00002.gguf: name of the file: expected one that ends in -00001-of-00003.gguf, as this is part 1 \
             of 3, found m-00001-of-00002.gguf",
        ),
        (
            Box::new(|_, parts| parts[0] = part(0, 2, "a.weight").with("split.count", u32(70_000))),
            "m-00001-of-00002.gguf: key split.count: expected 1 to 65535, found 70000",
        ),
        (
            Box::new(|folder, _| fs::write(folder.join("m-00002-of-00002.gguf"), "").unwrap()),
            "m-00002-of-00002.gguf: file: expected a GGUF file, found an empty file",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(opened(change).unwrap_err(), expected);
    }
}

#[test]
fn bytes_of_a_part_alone_are_no_model() {
    let error = File::parse(Bytes::from(part(1, 2, "b.weight").build())).unwrap_err().to_string();
    assert!(error.contains("this is part 2 of 2"), "{error}");
}
