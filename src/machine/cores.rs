//! The cores that this process may run on, and how many threads they are worth.
//!
//! Two hardware threads of a core share its multiply-add units and its way to memory, which one thread of these kernels
//! keeps busy alone: the second one only takes turns with it.

use std::{num::NonZero, sync::OnceLock, thread};

#[cfg(any(target_os = "linux", test))]
use std::{collections::HashMap, fs, path::Path};

/// Cores found, and the threads to start on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Physical cores that this process may run on.
    pub physical: usize,
    /// Their hardware threads that it may run on.
    pub hardware_threads: usize,
    /// Those of the cores that are much slower than the fastest, where the system tells. They take part: work is handed
    /// out in small pieces, so that they take fewer.
    pub slower: usize,
    /// Threads that are started where no number is asked for: the physical cores, or fewer where the system grants less
    /// time, as to a container.
    pub threads: usize,
}

/// The cores, found once.
pub fn cores() -> Cores {
    static FOUND: OnceLock<Cores> = OnceLock::new();
    *FOUND.get_or_init(find)
}

fn find() -> Cores {
    // Counts what the affinity mask and quotas leave.
    let granted = thread::available_parallelism().map_or(1, NonZero::get);
    told(granted).unwrap_or(Cores { physical: granted, hardware_threads: granted, slower: 0, threads: granted })
}

#[cfg(target_os = "linux")]
fn told(granted: usize) -> Option<Cores> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    of_tree(Path::new("/sys/devices/system/cpu"), &cpu_list(allowed)?, granted)
}

/// The count is the machine's: an affinity mask may leave fewer, and then says so in what is granted.
#[cfg(not(target_os = "linux"))]
fn told(granted: usize) -> Option<Cores> {
    let physical = num_cpus::get_physical().clamp(1, granted);
    Some(Cores { physical, hardware_threads: granted, slower: 0, threads: physical })
}

/// Cores below this share of the fastest one's speed are counted as slower: turbo steps of single cores are not.
#[cfg(any(target_os = "linux", test))]
const SLOWER_PERCENT: u64 = 80;

/// Groups the hardware threads `allowed` by the list of those that share their core; `None` where one has no such list.
#[cfg(any(target_os = "linux", test))]
fn of_tree(tree: &Path, allowed: &[usize], granted: usize) -> Option<Cores> {
    let read = |cpu: usize, file: &str| fs::read_to_string(tree.join(format!("cpu{cpu}")).join(file)).ok();
    let mut speeds: HashMap<String, Option<u64>> = HashMap::new();
    for &cpu in allowed {
        // The second name is the one of kernels before 4.20.
        let siblings = read(cpu, "topology/core_cpus_list").or_else(|| read(cpu, "topology/thread_siblings_list"))?;
        // The first is there on ARM and on new kernels for x86, the second where the clock is the system's to set.
        let speed = read(cpu, "cpu_capacity").or_else(|| read(cpu, "cpufreq/cpuinfo_max_freq"));
        speeds.insert(siblings, speed.and_then(|speed| speed.trim().parse().ok()));
    }
    let physical = speeds.len();
    let fastest = speeds.values().flatten().max().copied().unwrap_or(0);
    let is_slower = |speed: &&u64| **speed < fastest / 100 * SLOWER_PERCENT;
    let slower = speeds.values().flatten().filter(is_slower).count();
    let threads = physical.min(granted);
    (threads > 0).then_some(Cores { physical, hardware_threads: allowed.len(), slower, threads })
}

/// "0-3,8": what the kernel writes for sets of hardware threads.
#[cfg(any(target_os = "linux", test))]
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    /// Far more than kernels are built for.
    const MOST: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as of sysfs: of each hardware thread, the list of its core and its files of speed.
    fn tree(cpus: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, (siblings, speeds)) in cpus.iter().enumerate() {
            for (file, text) in [("topology/core_cpus_list", *siblings)].iter().chain(*speeds) {
                let path = dir.path().join(format!("cpu{cpu}")).join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
        }
        dir
    }

    #[test]
    fn hardware_threads_of_a_core_count_once() {
        // Two cores with two threads each, numbered as Intel does (0 and 2 share a core).
        let dir = tree(&[("0,2", &[]), ("1,3", &[]), ("0,2", &[]), ("1,3", &[])]);
        let of = |allowed: &[usize], granted| of_tree(dir.path(), allowed, granted).unwrap();
        let cores = |physical, hardware_threads, threads| Cores { physical, hardware_threads, slower: 0, threads };
        assert_eq!(of(&[0, 1, 2, 3], 4), cores(2, 4, 2));
        // A mask with both threads of one core, and one with a thread of each.
        assert_eq!(of(&[0, 2], 2), cores(1, 2, 1));
        assert_eq!(of(&[0, 3], 2), cores(2, 2, 2));
        // A quota of one processor's time.
        assert_eq!(of(&[0, 1, 2, 3], 1), cores(2, 4, 1));
    }

    #[test]
    fn slower_cores_are_counted_and_used() {
        let (fast, boosted, slow): (&[_], &[_], &[_]) = (
            &[("cpufreq/cpuinfo_max_freq", "5000000")],
            &[("cpufreq/cpuinfo_max_freq", "5200000")],
            &[("cpufreq/cpuinfo_max_freq", "3900000")],
        );
        let dir = tree(&[("0-1", boosted), ("0-1", boosted), ("2-3", fast), ("2-3", fast), ("4", slow), ("5", slow)]);
        let found = of_tree(dir.path(), &[0, 1, 2, 3, 4, 5], 6).unwrap();
        assert_eq!(found, Cores { physical: 4, hardware_threads: 6, slower: 2, threads: 4 });
        // The files of ARM come first.
        let dir = tree(&[("0", &[("cpu_capacity", "1024")]), ("1", &[("cpu_capacity", "446")])]);
        assert_eq!(of_tree(dir.path(), &[0, 1], 2).unwrap().slower, 1);
    }

    #[test]
    fn what_the_system_does_not_tell_is_not_guessed() {
        let dir = tree(&[("0", &[])]);
        assert_eq!(of_tree(dir.path(), &[0, 1], 2), None, "cpu1 has no list");
        assert_eq!(of_tree(dir.path(), &[], 2), None);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("\t0-2,5,8-9\n"), Some(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(cpu_list("3"), Some(vec![3]));
        for bad in ["", "a", "2-1", "0-", "0,,1", "0-99999999"] {
            assert_eq!(cpu_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn of_this_machine() {
        let Cores { physical, hardware_threads, slower, threads } = cores();
        let granted = thread::available_parallelism().unwrap().get();
        assert!((1..=granted).contains(&threads) && threads <= physical, "{threads} threads of {granted}");
        assert!(physical <= hardware_threads && slower < physical, "{:?}", cores());
    }
}
