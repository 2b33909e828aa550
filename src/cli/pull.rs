//! `pull`: brings a model of the Hugging Face Hub into the cache that all programs of this machine share.

use std::path::Path;

use serde_json::json;

use super::{
    args::PullArgs,
    download::{download, is_offline, summary},
    output,
};
use crate::{
    error::{Error, Result},
    hub::{Cache, ModelName, Pulled},
};

pub fn run(args: &PullArgs) -> Result<()> {
    let name = ModelName::parse(&args.name)?;
    let cache = Cache::of_user()?;
    if is_offline() {
        let path = cache.find(&name)?.ok_or_else(|| {
            let needed_for = "working offline, as HF_HUB_OFFLINE asks";
            Error::missing(format!("{name} in {}", cache.root().display()), needed_for)
        })?;
        return print(args, &path, None);
    }
    let pulled = download(&cache, &name)?;
    print(args, &pulled.path, Some(&pulled))
}

/// The path on standard output, so that a script can use it; the rest is for people.
fn print(args: &PullArgs, path: &Path, pulled: Option<&Pulled>) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
            "name": args.name,
            "path": path,
            "commit": pulled.map(|pulled| &pulled.commit),
            "files": pulled.map(|pulled| pulled.files),
            "fetched_bytes": pulled.map_or(0, |pulled| pulled.fetched_bytes),
        }));
    }
    if let Some(pulled) = pulled {
        output::note(summary(&args.name, pulled));
    }
    output::print(&format!("{}\n", path.display()))
}
