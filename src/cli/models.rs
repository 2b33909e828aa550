//! `list` and `rm`: the models in the cache of the Hugging Face Hub.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::{
    args::{ListArgs, RmArgs},
    format, output,
};
use crate::{
    error::Result,
    gguf::File,
    hub::{Cache, ModelName, Removal, Stored},
};

pub fn list(args: &ListArgs) -> Result<()> {
    let cache = Cache::of_user()?;
    let stored = cache.list()?;
    if args.json {
        let models = stored.iter().map(|model| {
            json!({
                "name": model.name.to_string(),
                "path": model.path,
                "bytes": model.bytes,
                "type": type_of(model),
                "modified": model.modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            })
        });
        return output::print_json(&json!({ "cache": cache.root(), "models": models.collect::<Vec<_>>() }));
    }
    if stored.is_empty() {
        output::note(format_args!("no models in {}; `bitnet-gpu pull org/name` brings one", cache.root().display()));
        return Ok(());
    }
    let heading = ["name", "size", "type", "when"].map(str::to_owned).to_vec();
    let rows = stored.iter().map(|model| {
        let age = SystemTime::now().duration_since(model.modified).unwrap_or_default();
        vec![model.name.to_string(), format::bytes(model.bytes), type_of(model), ago(age)]
    });
    output::print(&format::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))
}

/// The type of most of the weights, in the format's words.
fn type_of(model: &Stored) -> String {
    if model.path.is_dir() {
        return "safetensors".into();
    }
    let file = File::open(&model.path);
    file.ok().and_then(|file| file.main_type()).map_or_else(|| "unreadable".into(), |ty| ty.name().into())
}

/// "5 minutes ago", in the largest unit of which there are two.
fn ago(age: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400 * 7, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")];
    let seconds = age.as_secs();
    match UNITS.iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} ago", format::count((seconds / unit) as usize, name)),
        None => "just now".into(),
    }
}

pub fn remove(args: &RmArgs) -> Result<()> {
    let cache = Cache::of_user()?;
    // All of them are found before the first one goes.
    let removals = args.names.iter().map(|text| {
        let name = ModelName::parse(text)?;
        cache.removal(&name).map(|removal| (name, removal))
    });
    for (name, removal) in removals.collect::<Result<Vec<(ModelName, Removal)>>>()? {
        let size = format::bytes(removal.bytes);
        if !args.yes && !confirmed(&format!("remove {name}, which frees {size}? [y/N] ")) {
            output::note(format_args!("{name} stays"));
            continue;
        }
        removal.run()?;
        output::note(format_args!("{name} is removed: {size} freed"));
    }
    Ok(())
}

/// Asks on a terminal; true where there is none.
fn confirmed(question: &str) -> bool {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return true;
    }
    let mut line = String::new();
    let asked = write!(io::stderr(), "{question}").and_then(|()| io::stdin().read_line(&mut line));
    asked.is_ok() && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_units_of_which_there_are_two() {
        for (seconds, expected) in [
            (119, "just now"),
            (120, "2 minutes ago"),
            (7199, "119 minutes ago"),
            (7200, "2 hours ago"),
            (172_800, "2 days ago"),
            (1_209_600, "2 weeks ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), expected);
        }
    }
}
