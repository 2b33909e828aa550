//! Energy that the processor's package has taken, where the system tells it (RAPL, through Linux's powercap files;
//! on most machines only root may read them). An integrated GPU is part of the package.

use std::{fs, path::Path};

const ROOT: &str = "/sys/class/powercap";

/// A reading of the counters of all packages, in microjoules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    readings: Vec<Reading>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    zone: String,
    microjoules: u64,
    /// The counter begins again after this.
    range: u64,
}

impl Package {
    /// The counters now; `None` where there are none or they may not be read.
    pub fn read() -> Option<Self> {
        Self::read_in(Path::new(ROOT))
    }

    /// Millijoules from this reading to now; `None` where a counter is gone.
    pub fn millijoules_since(&self) -> Option<f64> {
        self.millijoules_to(&Self::read()?)
    }

    fn read_in(root: &Path) -> Option<Self> {
        let number = |zone: &Path, file: &str| fs::read_to_string(zone.join(file)).ok()?.trim().parse().ok();
        let mut readings = Vec::new();
        for entry in fs::read_dir(root).ok()?.flatten() {
            let zone = entry.file_name().to_string_lossy().into_owned();
            // "intel-rapl:0" is a package (AMD's as well); "intel-rapl:0:1" is a part of it, and counted there.
            if zone.starts_with("intel-rapl:") && zone.matches(':').count() == 1 {
                let microjoules = number(&entry.path(), "energy_uj")?;
                let range = number(&entry.path(), "max_energy_range_uj")?;
                readings.push(Reading { zone, microjoules, range });
            }
        }
        readings.sort_by(|a, b| a.zone.cmp(&b.zone));
        (!readings.is_empty()).then_some(Self { readings })
    }

    fn millijoules_to(&self, later: &Self) -> Option<f64> {
        let zones = |package: &Self| package.readings.iter().map(|r| r.zone.clone()).collect::<Vec<_>>();
        if zones(self) != zones(later) {
            return None;
        }
        let difference = |(from, to): (&Reading, &Reading)| {
            if to.microjoules >= from.microjoules {
                to.microjoules - from.microjoules
            } else {
                (from.range - from.microjoules.min(from.range)) + to.microjoules
            }
        };
        let microjoules: u64 = self.readings.iter().zip(&later.readings).map(difference).sum();
        Some(microjoules as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_added_and_their_parts_are_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |zone: &str, microjoules: u64| {
            let folder = root.path().join(zone);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("energy_uj"), format!("{microjoules}\n")).unwrap();
            fs::write(folder.join("max_energy_range_uj"), "10000\n").unwrap();
        };
        assert_eq!(Package::read_in(root.path()), None);
        write("intel-rapl:0", 9_000);
        write("intel-rapl:1", 100);
        write("intel-rapl:0:0", 5_000);
        let before = Package::read_in(root.path()).unwrap();
        write("intel-rapl:0", 1_000);
        write("intel-rapl:1", 600);
        write("intel-rapl:0:0", 7_000);
        let after = Package::read_in(root.path()).unwrap();
        // The first counter began again at 10000: 1000 + 1000. The second: 500.
        assert_eq!(before.millijoules_to(&after), Some(2.5));
        fs::remove_file(root.path().join("intel-rapl:1/energy_uj")).unwrap();
        assert_eq!(Package::read_in(root.path()), None);
    }
}
