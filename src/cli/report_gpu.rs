//! `report-gpu`: what a GPU does, in one Markdown file to send: `doctor`, then `verify` and `bench` on some models. Each is
//! this program in a process of its own, so that a driver which crashes one of them leaves the reports of the others. Like
//! `doctor`, it names no user, no host and no path.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{MAIN_SEPARATOR, Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    args::{ReportGpuArgs, ReportShape},
    interrupt, output,
};
use crate::error::{Error, Result};

/// A longer fence than any that a report may hold.
const FENCE: &str = "````";

impl ReportShape {
    /// Its heading, and the arguments of `dummy` for it.
    fn dummy(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::TwoB => ("2B-4T's shape, I2_S", &["--like", "2b-4t"]),
            Self::EightB => ("an 8B shape, Q2_0", &["--like", "llama3-8b", "--type", "q2_0", "--head", "q6_k"]),
            Self::TwentySevenB => ("Bonsai 2 27B's shape, Q2_0", &["--like", "bonsai2-27b", "--type", "q2_0"]),
        }
    }
}

pub fn run(args: &ReportGpuArgs) -> Result<()> {
    output::check_new("-o", Some(&args.output))?;
    interrupt::catch();
    let step = |name: &str, arguments: &[OsString]| {
        let told = process(name, arguments)?;
        if interrupt::raised() { Err(Error::Cancelled) } else { Ok(told) }
    };
    let mut text = format!("# GPU report of bitnet-gpu {}\n\n", env!("CARGO_PKG_VERSION"));
    text += &step("doctor", &[])?.section;
    if let Some(model) = &args.model {
        text += &of_model("the model", model, args, &step)?;
    } else {
        // Beside the report: a folder for temporary files may be in main memory.
        let beside = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = tempfile::tempdir_in(beside).map_err(|e| Error::io("write to", beside, e))?;
        for shape in &args.shapes {
            let (heading, like) = shape.dummy();
            let file = folder.path().join("dummy.gguf");
            let mut arguments: Vec<OsString> = like.iter().map(OsString::from).collect();
            arguments.extend(["-o".into(), file.clone().into()]);
            let made = step("dummy", &arguments)?;
            if made.succeeded {
                text += &of_model(heading, &file, args, &step)?;
                fs::remove_file(&file).map_err(|e| Error::io("remove", &file, e))?;
            } else {
                text += &format!("## {heading}\n\n{}", made.section);
            }
        }
    }
    output::write_new(&args.output, &text)?;
    output::print(&format!("{}\n", args.output.display()))
}

type Step<'a> = &'a dyn Fn(&str, &[OsString]) -> Result<Told>;

fn of_model(heading: &str, model: &Path, args: &ReportGpuArgs, step: Step<'_>) -> Result<String> {
    let model = || ["-m".into(), PathBuf::from(model).into_os_string()];
    let bench = format!("-p {} -n {} -r {} --backend gpu --profile", args.n_prompt, args.n_gen, args.repetitions);
    let bench: Vec<OsString> = bench.split(' ').map(OsString::from).chain(model()).collect();
    let (verify, bench) = (step("verify", &model())?, step("bench", &bench)?);
    Ok(format!("## {heading}\n\n{}{}", verify.section, bench.section))
}

/// Output of a command.
struct Told {
    /// A heading and the text.
    section: String,
    succeeded: bool,
}

fn process(name: &str, arguments: &[OsString]) -> Result<Told> {
    output::note(format_args!("report-gpu: {name}"));
    let program = env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let done = Command::new(&program)
        .arg(name)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io("start", &program, e))?;
    let mut said = String::from_utf8_lossy(&done.stdout).trim_end().to_owned();
    if !done.status.success() {
        // Its last line is the error.
        let complaint = String::from_utf8_lossy(&done.stderr);
        let line = complaint.trim_end().lines().last().unwrap_or_default();
        said = format!("{said}\nfailed ({}): {line}", done.status).trim_start().to_owned();
    }
    // An error names its file.
    for path in arguments.iter().map(|argument| argument.to_string_lossy()).filter(|a| a.contains(MAIN_SEPARATOR)) {
        said = said.replace(&*path, "FILE");
    }
    Ok(Told { section: format!("### {name}\n\n{FENCE}text\n{said}\n{FENCE}\n\n"), succeeded: done.status.success() })
}
