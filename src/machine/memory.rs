//! Memory that the system grants: the machine's, and less where a container or a limit of the process says so.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory, and the part of it that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Granted {
    all: u64,
    free: u64,
}

/// Memory that this process may come to have.
pub fn memory_bytes() -> Option<u64> {
    granted(Path::new("/")).map(|granted| granted.all)
}

/// Memory that this process can have without others being swapped out, or itself ended.
pub fn free_memory_bytes() -> Option<u64> {
    granted(Path::new("/")).map(|granted| granted.free)
}

/// The least of all that limit it, by the files below `root`.
fn granted(root: &Path) -> Option<Granted> {
    let machine = || {
        let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
        Some(Granted { all: super::kib(&text, "MemTotal:")?, free: super::kib(&text, "MemAvailable:")? })
    };
    let limits = machine().into_iter().chain(address_space(root)).chain(of_groups(root));
    limits.reduce(|a, b| Granted { all: a.all.min(b.all), free: a.free.min(b.free) })
}

/// RLIMIT_AS (`ulimit -v`), which counts mapped files as well.
fn address_space(root: &Path) -> Option<Granted> {
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let all = line.split_whitespace().next()?.parse().ok()?;
    let used = super::kib(&fs::read_to_string(root.join("proc/self/status")).ok()?, "VmSize:")?;
    Some(Granted { all, free: all.saturating_sub(used) })
}

/// The limits of the control group of this process and of all above it, of version 1 and 2.
fn of_groups(root: &Path) -> Vec<Granted> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut found = Vec::new();
    for mount in mounts.lines().filter_map(Mount::new) {
        // "4:memory:/a/b", or "0::/a/b" of version 2.
        let of_group = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_this =
                if mount.is_v2 { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
            is_this.then(|| PathBuf::from(path))
        };
        let Some(path) = groups.lines().find_map(of_group) else { continue };
        // Inside a container the mount may show a part of the tree, or the path leads out of what is shown.
        let inside = path.strip_prefix(mount.root).unwrap_or(Path::new(""));
        let top = root.join(mount.point.trim_start_matches('/'));
        for level in inside.ancestors().filter(|level| !level.is_absolute()) {
            found.extend(of_group_in(&top.join(level), mount.is_v2));
        }
    }
    found
}

fn of_group_in(folder: &Path, is_v2: bool) -> Option<Granted> {
    let (limits, usage, inactive): (&[&str], _, _) = if is_v2 {
        // Above memory.high a group is slowed down until it gives memory back.
        (&["memory.max", "memory.high"], "memory.current", "inactive_file")
    } else {
        (&["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file")
    };
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let all = limits.iter().filter_map(|limit| number(limit)).min()?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let field = |line: &str| line.strip_prefix(inactive)?.strip_prefix(' ')?.trim().parse::<u64>().ok();
    // Pages of files that nobody reads now are dropped when memory is needed.
    let used = number(usage).unwrap_or(0).saturating_sub(stat.lines().find_map(field).unwrap_or(0));
    Some(Granted { all, free: all.saturating_sub(used) })
}

/// A mounted tree of control groups.
struct Mount<'a> {
    /// The group at its top.
    root: &'a str,
    point: &'a str,
    is_v2: bool,
}

impl<'a> Mount<'a> {
    /// From a line of mountinfo (proc(5)): `36 35 98:0 ROOT POINT options - type source more options`.
    fn new(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let is_v2 = kind == "cgroup2";
        let is_memory = kind == "cgroup" && options.split(',').any(|option| option == "memory");
        (is_v2 || is_memory).then_some(Self { root, point, is_v2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 1000 kB\nMemAvailable: 800 kB\n";
    const KIB: u64 = 1024;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &str)]) -> (u64, u64) {
        let Granted { all, free } = granted(tree(files).path()).unwrap();
        (all, free)
    }

    #[test]
    fn without_a_limit_it_is_the_machines() {
        assert_eq!(found(&[]), (1000 * KIB, 800 * KIB));
        let unlimited = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "5\n"),
            ("proc/self/limits", "Max address space         unlimited            unlimited            bytes\n"),
        ];
        assert_eq!(found(&unlimited), (1000 * KIB, 800 * KIB));
    }

    #[test]
    fn groups_of_version_1_without_the_pages_of_idle_files() {
        let files = [
            ("proc/self/cgroup", "8:pids:/x\n4:memory,cpu:/a/b\n0::/\n"),
            ("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,cpu,memory\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "300000\n"),
            ("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "250000\n"),
            ("sys/fs/cgroup/memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 200000\n"),
        ];
        assert_eq!(found(&files), (300_000, 250_000));
    }

    #[test]
    fn groups_of_version_2_and_those_above() {
        let files = [
            ("proc/self/cgroup", "0::/a/b/c\n"),
            ("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"),
            ("sys/fs/cgroup/a/b/c/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.max", "500000\n"),
            ("sys/fs/cgroup/a/b/memory.high", "400000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100000\n"),
            ("sys/fs/cgroup/a/memory.max", "450000\n"),
            ("sys/fs/cgroup/a/memory.current", "440000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 40000\n"),
        ];
        assert_eq!(found(&files), (400_000, 50_000));
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_tree() {
        for (path, mounted) in [("/docker/id/sub", "/docker/id"), ("/", "/"), ("/../elsewhere", "/docker/id")] {
            let (cgroup, mount) =
                (format!("0::{path}\n"), format!("30 20 0:26 {mounted} /cg rw - cgroup2 cgroup2 rw\n"));
            let files =
                [("proc/self/cgroup", &*cgroup), ("proc/self/mountinfo", &*mount), ("cg/memory.max", "12345\n")];
            assert_eq!(found(&files), (12345, 12345), "{path} {mounted}");
        }
    }

    #[test]
    fn the_limit_of_the_address_space_counts() {
        let limits =
            "Limit  Soft  Hard  Units\nMax address space         500000               unlimited            bytes\n";
        assert_eq!(
            found(&[("proc/self/limits", limits), ("proc/self/status", "VmSize:\t 100 kB\n")]),
            (500_000, 397_600)
        );
    }
}
