//! What the compilers of real drivers make of every kernel, on a machine without their GPUs: registers, occupancy, spills,
//! instructions. `./check --gpu-stats` writes the table `docs/gpu-stats.md`; every `./check` compares with it.

#![cfg(target_os = "linux")]

#[path = "../common/gpu/constants.rs"]
mod constants;

mod driver;

mod gpus;

mod layouts;

mod pipelines;

mod report;

mod spirv;

mod valid;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use bitnet_gpu::backend::gpu::{params::PARAM_BYTES, pipelines::Variant};
use driver::Driver;
use gpus::{DEBIAN, Gpu};
use report::{Column, Figures};

/// Names the file for the column of a process that compiles for one GPU.
const COLUMN: &str = "BITNET_GPU_STATS_COLUMN";
/// `check` compares with the committed table, `write` also writes it.
const MODE: &str = "BITNET_GPU_STATS";

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gpu-stats.md");

/// The pipelines on the GPU that the environment chooses. A process of its own: drivers read it once.
#[test]
#[ignore = "started by the test below, for each GPU"]
fn column() {
    let path = env::var_os(COLUMN).expect("a file for the column");
    let column = match Driver::open() {
        Ok(driver) => compiled(&driver),
        Err(why) => Column { gpu: String::new(), driver: why, cells: Vec::new() },
    };
    fs::write(path, column.to_lines()).unwrap();
}

fn compiled(driver: &Driver) -> Column {
    let mut writer = spirv::Writer::default();
    let cells = pipelines::all().into_iter().map(|pipeline| {
        let Variant { program, .. } = pipeline.variant;
        let words = writer.write(&pipeline, driver.has_dot, driver.has_int8);
        let machine = driver.compile(&words, program.kernel().bindings.len(), PARAM_BYTES as u32);
        if let Err(why) = &machine {
            eprintln!("{}: {why}", pipeline.name);
        }
        (pipeline.name, machine.ok().map(|machine| Figures::from(&machine)))
    });
    Column { gpu: driver.name.clone(), driver: driver.version.clone(), cells: cells.collect() }
}

/// The driver's file of the Vulkan loader.
fn driver_file(gpu: &Gpu) -> Option<PathBuf> {
    let files = fs::read_dir("/usr/share/vulkan/icd.d").ok()?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    paths.find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{}_icd", gpu.driver)))
    })
}

/// The column of a GPU; an error says why there is none here.
fn compile_for(gpu: &Gpu) -> Result<Column, String> {
    let file = driver_file(gpu).ok_or_else(|| format!("no driver {} here", gpu.driver))?;
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-stats-{}", gpu.chosen_by.1));
    let (variable, value) = gpu.chosen_by;
    let process = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "column", "--nocapture"])
        .env(COLUMN, &to)
        .env("VK_DRIVER_FILES", file)
        .env(variable, value)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&process.stderr);
    assert!(process.status.success(), "{}: {output}", gpu.name);
    let column = Column::of_lines(&fs::read_to_string(to).unwrap());
    if !column.gpu.to_lowercase().contains(gpu.known_by) {
        return Err(format!("the driver shows \"{}\" ({})", column.gpu, column.driver));
    }
    Ok(Column { gpu: gpu.name.to_owned(), ..column })
}

const INTRODUCTION: &str = "\
# What drivers make of the kernels

The compilers of real drivers, on a machine without their GPUs. `./check --gpu-stats` writes this page, and every `./check`
compares with it: a spill, scratch memory, a product of int8 without an instruction for it, a refusal or 10 % fewer waves is a
failure. Nothing is run, so nothing here is a time.

r registers, w subgroups beside each other (what the driver calls occupancy), i instructions, d of them products of four int8,
c the driver's estimate of cycles, s spills, m bytes of scratch memory. Pipelines have the name of their kernel, of the twins
it takes, and the constants of which the engine gives several values.
";

const OF_DEBIAN: &str = "\
## Debian 12's Mesa

RADV without a device (`RADV_FORCE_FAMILY`): part of every `./check`.
";

/// All columns of these GPUs that can be had here, several at a time.
fn columns_of<'a>(gpus: impl IntoIterator<Item = &'a Gpu>) -> Vec<(&'a Gpu, Column)> {
    let compiled: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = gpus.into_iter().map(|gpu| (gpu, scope.spawn(move || compile_for(gpu)))).collect();
        started.into_iter().map(|(gpu, thread)| (gpu, thread.join().unwrap())).collect()
    });
    let mut columns = Vec::new();
    for (gpu, column) in compiled {
        match column {
            Ok(column) => {
                eprintln!("{}: {} pipelines by {}", gpu.name, column.cells.len(), column.driver);
                columns.push((gpu, column));
            }
            Err(why) => eprintln!("{}: skipped: {why}", gpu.name),
        }
    }
    columns
}

#[test]
#[ignore = "runs in ./check"]
fn no_driver_makes_the_kernels_worse_than_the_table_says() {
    let writes = env::var(MODE).is_ok_and(|mode| mode == "write");
    let document = fs::read_to_string(DOCUMENT).unwrap_or_default();
    let committed = report::columns(&document);
    let found = columns_of(&DEBIAN);
    let before = |gpu: &Gpu| committed.iter().find(|column| column.gpu == gpu.name).filter(|_| !writes);
    let faults: Vec<String> = found.iter().flat_map(|(gpu, column)| report::faults(gpu, before(gpu), column)).collect();
    if writes {
        // Or the figures of the others would be lost.
        assert_eq!(found.len(), DEBIAN.len(), "{DOCUMENT} is written where every driver is there");
        let columns: Vec<Column> = found.into_iter().map(|(_, column)| column).collect();
        fs::write(DOCUMENT, format!("{INTRODUCTION}\n{OF_DEBIAN}\n{}", report::table(&columns))).unwrap();
    }
    assert!(
        faults.is_empty(),
        "{} faults (./check --gpu-stats writes {DOCUMENT}):\n{}",
        faults.len(),
        faults.join("\n")
    );
}
