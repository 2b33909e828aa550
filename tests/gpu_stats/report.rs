//! The table of what drivers say, and its comparison with the one in `docs/gpu-stats.md`.

use std::fmt::{self, Write as _};

use super::{driver::Machine, gpus::Gpu};

/// What a driver says of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Of an invocation, or what the driver counts registers by.
    pub registers: u64,
    /// Subgroups that fit beside each other, or what the driver counts occupancy by.
    pub waves: u64,
    pub instructions: u64,
    /// Those among them that multiply four int8.
    pub dots: u64,
    /// The driver's own estimate, where it makes one.
    pub cycles: u64,
    /// Registers kept in memory, loads and stores.
    pub spills: u64,
    pub scratch_bytes: u64,
}

/// Names that drivers have for each figure: RADV, ANV, Honeykrisp, Turnip, NVK.
const REGISTERS: &[&str] = &["VGPRs", "Max live registers", "GPRs", "Registers used", "Number of GPRs"];
const WAVES: &[&str] = &["Subgroups per SIMD", "Threads", "Max Waves Per Core", "Max warps/SM"];
const INSTRUCTIONS: &[&str] = &["Instructions", "Instruction Count", "Instruction count"];
const CYCLES: &[&str] = &["Inverse Throughput", "Cycles", "Cycle Count", "ALU", "Static cycle count"];
const SPILLS: &[&str] = &[
    "Spilled SGPRs",
    "Spilled VGPRs",
    "Spill count",
    "Fill count",
    "Spills",
    "Fills",
    "STP Count",
    "LDP Count",
    "Spills to memory",
    "Fills from memory",
    "Spills to reg",
];
const SCRATCH: &[&str] = &["Scratch size", "Scratch Memory Size", "Scratch", "SLM size"];
/// In assembly: v_dot4_i32_i8 and its kin of AMD, dp4a of Intel, dp4acc of Qualcomm, idp4 of NVIDIA.
const DOTS: &[&str] = &["v_dot4", "dp4a", "idp4"];

impl From<&Machine> for Figures {
    fn from(machine: &Machine) -> Self {
        let statistics = || machine.statistics.iter();
        let first = |names: &[&str]| statistics().find(|(name, _)| names.contains(&&**name)).map(|&(_, value)| value);
        let sum = |names: &[&str]| statistics().filter(|(name, _)| names.contains(&&**name)).map(|(_, v)| v).sum();
        let dots = |text: &String| text.lines().filter(|line| DOTS.iter().any(|dot| line.contains(dot))).count() as u64;
        Self {
            registers: first(REGISTERS).unwrap_or(0),
            // Of Intel's the width tells: as many threads run in any case.
            waves: first(WAVES).unwrap_or(u64::from(machine.subgroup)),
            instructions: first(INSTRUCTIONS).unwrap_or(0),
            // The last form is the nearest to the machine, but not always there.
            dots: machine.texts.iter().rev().map(dots).find(|&count| count > 0).unwrap_or(0),
            cycles: first(CYCLES).unwrap_or(0),
            spills: sum(SPILLS),
            scratch_bytes: sum(SCRATCH),
        }
    }
}

/// A pipeline on a GPU: `None` where the driver refuses it.
pub type Cell = Option<Figures>;

/// The letters of a cell.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registers, waves, instructions, dots, cycles, spills, scratch_bytes } = self;
        write!(f, "r{registers} w{waves} i{instructions}")?;
        for (letter, value) in [('d', dots), ('c', cycles), ('s', spills), ('m', scratch_bytes)] {
            if *value > 0 {
                write!(f, " {letter}{value}")?;
            }
        }
        Ok(())
    }
}

const REFUSED: &str = "refused";

pub fn cell_text(cell: &Cell) -> String {
    cell.as_ref().map_or(REFUSED.to_owned(), Figures::to_string)
}

fn parse_cell(text: &str) -> Cell {
    if text == REFUSED {
        return None;
    }
    let mut figures = Figures::default();
    for word in text.split_whitespace() {
        let (letter, value) = word.split_at(1);
        let value = value.parse().unwrap_or_else(|_| panic!("a letter and a number expected, found \"{word}\""));
        *match letter {
            "r" => &mut figures.registers,
            "w" => &mut figures.waves,
            "i" => &mut figures.instructions,
            "d" => &mut figures.dots,
            "c" => &mut figures.cycles,
            "s" => &mut figures.spills,
            "m" => &mut figures.scratch_bytes,
            other => panic!("no figure has the letter \"{other}\""),
        } = value;
    }
    Some(figures)
}

/// A GPU's column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub gpu: String,
    /// Name and version of the driver, and its name for the GPU.
    pub driver: String,
    pub cells: Vec<(String, Cell)>,
}

const DRIVER: &str = "driver";

impl Column {
    pub fn cell(&self, pipeline: &str) -> Option<&Cell> {
        self.cells.iter().find(|(name, _)| name == pipeline).map(|(_, cell)| cell)
    }

    /// The form in which a process hands it to the one that compares.
    pub fn to_lines(&self) -> String {
        let mut text = format!("{}\t{}\n", self.gpu, self.driver);
        for (name, cell) in &self.cells {
            writeln!(text, "{name}\t{}", cell_text(cell)).unwrap();
        }
        text
    }

    pub fn of_lines(text: &str) -> Self {
        let mut lines = text.lines().map(|line| line.split_once('\t').expect("two parts of a line"));
        let (gpu, driver) = lines.next().expect("a line with the GPU");
        let cells = lines.map(|(name, cell)| (name.to_owned(), parse_cell(cell))).collect();
        Self { gpu: gpu.to_owned(), driver: driver.to_owned(), cells }
    }
}

/// A Markdown table of columns that have the same pipelines.
pub fn table(columns: &[Column]) -> String {
    let mut text = String::from("| pipeline |");
    let row = |text: &mut String, cells: &mut dyn Iterator<Item = String>| {
        for cell in cells {
            write!(text, " {cell} |").unwrap();
        }
        text.push('\n');
    };
    row(&mut text, &mut columns.iter().map(|column| column.gpu.clone()));
    text.push_str(&"|---".repeat(columns.len() + 1));
    write!(text, "|\n| {DRIVER} |").unwrap();
    row(&mut text, &mut columns.iter().map(|column| column.driver.clone()));
    for (name, _) in columns.first().map_or(&[][..], |column| &column.cells) {
        write!(text, "| {name} |").unwrap();
        row(&mut text, &mut columns.iter().map(|column| column.cell(name).map_or("-".to_owned(), cell_text)));
    }
    text
}

/// The columns of all tables in a document.
pub fn columns(document: &str) -> Vec<Column> {
    let mut all: Vec<Column> = Vec::new();
    let mut own = 0;
    for line in document.lines() {
        let Some(line) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let mut cells = line.split(" | ");
        match cells.next().unwrap_or_default() {
            "pipeline" => {
                own = all.len();
                all.extend(cells.map(|gpu| Column { gpu: gpu.to_owned(), driver: String::new(), cells: Vec::new() }));
            }
            DRIVER => all[own..].iter_mut().zip(cells).for_each(|(column, driver)| column.driver = driver.to_owned()),
            name => all[own..].iter_mut().zip(cells).filter(|(_, cell)| *cell != "-").for_each(|(column, cell)| {
                column.cells.push((name.to_owned(), parse_cell(cell)));
            }),
        }
    }
    all
}

/// What is wrong with a column, given the one of the same GPU in the committed table.
pub fn faults(gpu: &Gpu, committed: Option<&Column>, found: &Column) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, cell) in &found.cells {
        let mut fault = |what: String| faults.push(format!("{}: {name}: {what}", gpu.name));
        let Some(figures) = cell else {
            fault("the driver refuses it".to_owned());
            continue;
        };
        if gpu.may_choose(name) && (figures.spills > 0 || figures.scratch_bytes > 0) {
            fault(format!("{} spills, {} bytes of scratch", figures.spills, figures.scratch_bytes));
        }
        if gpu.has_dot && name.contains("-int8") && figures.dots == 0 {
            fault("no instruction for products of four int8".to_owned());
        }
        let Some(committed) = committed else { continue };
        match committed.cell(name) {
            None => fault("not in the committed table".to_owned()),
            // Of another version's compiler the difference may be the compiler's.
            Some(Some(before)) if committed.driver == found.driver && 10 * figures.waves < 9 * before.waves => {
                fault(format!("{} waves, {} in the committed table", figures.waves, before.waves));
            }
            Some(_) => {}
        }
    }
    let gone = committed.iter().flat_map(|column| &column.cells).filter(|(name, _)| found.cell(name).is_none());
    faults
        .extend(gone.map(|(name, _)| format!("{}: {name}: in the committed table, but not built any more", gpu.name)));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::DEBIAN;

    fn column(rows: &[(&str, &str)]) -> Column {
        let cells = rows.iter().map(|&(name, cell)| (name.to_owned(), parse_cell(cell))).collect();
        Column { gpu: "680M".to_owned(), driver: "radv 22.3.6".to_owned(), cells }
    }

    const GOOD: [(&str, &str); 2] = [("matvec-int8", "r32 w32 i145 d16 c900"), ("rms_norm", "r24 w30 i80")];

    #[test]
    fn tables_are_read_as_they_were_written() {
        let columns_of = [
            column(&[("a", "r32 w32 i145 d16 c900 s3 m40"), ("b", "refused")]),
            Column { gpu: "Iris Xe".to_owned(), ..column(&[("a", "r1 w8 i2"), ("b", "r0 w0 i0")]) },
        ];
        let other = [Column { gpu: "M1".to_owned(), ..column(&[("a", "r9 w9 i9")]) }];
        let document = format!("# Title\n\n{}\ntext | with a bar |\n\n{}", table(&columns_of), table(&other));
        assert_eq!(columns(&document), [&columns_of[..], &other].concat());
        assert_eq!(Column::of_lines(&columns_of[0].to_lines()), columns_of[0]);
    }

    #[test]
    fn planted_faults_are_found() {
        let (gpu, committed) = (&DEBIAN[0], column(&GOOD));
        assert_eq!(faults(gpu, Some(&committed), &committed), [""; 0]);
        let planted = |name: &str, cell: &str| {
            let mut rows = GOOD;
            *rows.iter_mut().find(|row| row.0 == name).unwrap() = (name, cell);
            faults(gpu, Some(&committed), &column(&rows)).join("; ")
        };
        for (name, cell, expected) in [
            ("rms_norm", "r24 w30 i80 s1", "rms_norm: 1 spills, 0 bytes of scratch"),
            ("rms_norm", "r24 w30 i80 m64", "rms_norm: 0 spills, 64 bytes of scratch"),
            ("rms_norm", "refused", "rms_norm: the driver refuses it"),
            ("rms_norm", "r24 w26 i80", "rms_norm: 26 waves, 30 in the committed table"),
            ("matvec-int8", "r32 w32 i300", "matvec-int8: no instruction for products of four int8"),
        ] {
            assert_eq!(planted(name, cell), format!("680M: {expected}"), "{cell}");
        }
        for unharmful in ["r24 w27 i80", "r40 w32 i200 c7"] {
            assert_eq!(planted("rms_norm", unharmful), "", "{unharmful}");
        }
        // Another version's compiler may do as it likes, except spill.
        let newer = Column { driver: "radv 25.0.7".to_owned(), ..column(&[GOOD[0], ("rms_norm", "r24 w4 i80")]) };
        assert_eq!(faults(gpu, Some(&committed), &newer), [""; 0]);
        let newer = Column { driver: "radv 25.0.7".to_owned(), ..column(&[GOOD[0], ("rms_norm", "r24 w4 i80 s1")]) };
        assert_eq!(faults(gpu, Some(&committed), &newer).len(), 1);
    }

    #[test]
    fn the_table_has_all_pipelines_and_no_others() {
        let gpu = &DEBIAN[0];
        let (one, both) = (column(&GOOD[..1]), column(&GOOD));
        assert_eq!(faults(gpu, Some(&one), &both), ["680M: rms_norm: not in the committed table"]);
        assert!(
            faults(gpu, Some(&both), &one)[0].ends_with("rms_norm: in the committed table, but not built any more")
        );
        assert_eq!(faults(gpu, None, &both), [""; 0]);
    }

    #[test]
    fn what_a_gpu_never_chooses_may_spill() {
        let spilling = column(&[("few-subgroup-f32 GATE=1", "r128 w8 i900 s50 m2048")]);
        let (radeon, vega) = (&DEBIAN[0], &DEBIAN[2]);
        assert_eq!(faults(radeon, None, &spilling), [""; 0]);
        assert_eq!(faults(vega, None, &spilling).len(), 1);
    }
}
