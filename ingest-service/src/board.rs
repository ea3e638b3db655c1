//! What the machine is, and how it fares: model, cores, memory; temperature,
//! and what the firmware of a Raspberry Pi says of power and heat. Reads /proc
//! and /sys; `None` means "cannot be read", never "all is well".

use std::fs;
use std::path::{Path, PathBuf};

use flatframe_shared::process;

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As its maker calls it, such as `Raspberry Pi Zero 2 W Rev 1.0`.
    pub model: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory that the kernel manages, bytes: less than what is soldered on. In
    /// a cgroup twice its limit, if that is less: it is shared with nobody.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// One that says nothing of itself.
    pub fn unknown() -> Self {
        Self { model: None, cores: 1, memory_bytes: None }
    }
}

/// How a machine fares at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fitness {
    /// Of the processor, degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Which [`Strain`]s there are now.
    pub strains: [Option<bool>; 4],
}

/// What slows a Raspberry Pi down, or stops it. The number is the bit in the
/// firmware's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strain {
    /// The supply gives less than 4.63 V: a weak supply or a thin cable.
    UnderVoltage = 0,
    /// The clock is held down.
    FrequencyCapped = 1,
    /// The processor is slowed down.
    Throttled = 2,
    /// Above the soft temperature limit.
    SoftTemperatureLimit = 3,
}

impl Strain {
    /// All there are, in the order of [`Fitness::strains`].
    pub const ALL: [Self; 4] = [Self::UnderVoltage, Self::FrequencyCapped, Self::Throttled, Self::SoftTemperatureLimit];

    /// As metrics and logs say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnderVoltage => "under_voltage",
            Self::FrequencyCapped => "frequency_capped",
            Self::Throttled => "throttled",
            Self::SoftTemperatureLimit => "soft_temperature_limit",
        }
    }
}

/// Where a machine tells of itself.
#[derive(Debug, Clone)]
pub struct Board {
    root: PathBuf,
}

impl Default for Board {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Board {
    /// The machine whose /proc and /sys are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What it is.
    pub fn machine(&self) -> Machine {
        let total = |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok();
        let managed = self.read("proc/meminfo").and_then(|text| text.lines().find_map(total)).map(|kib| kib * 1024);
        let limited = process::cgroup_limit_bytes().map_or(u64::MAX, |limit| limit.saturating_mul(2));
        Machine {
            // The device tree ends its texts with a zero.
            model: self.read("proc/device-tree/model").map(|text| text.trim_end_matches('\0').to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: managed.map(|managed| managed.min(limited)),
        }
    }

    /// How it fares now.
    pub fn fitness(&self) -> Fitness {
        let temperature = self.read("sys/class/thermal/thermal_zone0/temp").and_then(|text| text.parse::<f64>().ok());
        Fitness { temperature_celsius: temperature.map(|milli| milli / 1000.0), strains: self.strains() }
    }

    fn strains(&self) -> [Option<bool>; 4] {
        let firmware = self.found("sys/bus/platform/drivers/raspberrypi-firmware", |device| {
            let text = read(&device.join("get_throttled"))?;
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        });
        if let Some(bits) = firmware {
            return Strain::ALL.map(|strain| Some(bits >> strain as u32 & 1 == 1));
        }
        // Newer kernels give the one that matters most to everybody.
        let low = self.found("sys/class/hwmon", |sensor| {
            let is_supply = read(&sensor.join("name"))? == "rpi_volt";
            is_supply.then(|| read(&sensor.join("in0_lcrit_alarm"))).flatten()
        });
        let mut strains = [None; 4];
        strains[Strain::UnderVoltage as usize] = low.map(|alarm| alarm == "1");
        strains
    }

    /// The first answer of an entry of `folder`.
    fn found<T>(&self, folder: &str, ask: impl Fn(&Path) -> Option<T>) -> Option<T> {
        fs::read_dir(self.root.join(folder)).ok()?.flatten().find_map(|entry| ask(&entry.path()))
    }

    fn read(&self, path: &str) -> Option<String> {
        read(&self.root.join(path))
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(files: &[(&str, &str)]) -> (tempfile::TempDir, Board) {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let board = Board::at(root.path());
        (root, board)
    }

    #[test]
    fn a_pi_says_what_it_is_and_how_it_fares() {
        let (_root, pi) = board(&[
            ("proc/device-tree/model", "Raspberry Pi Zero 2 W Rev 1.0\0"),
            ("proc/meminfo", "MemTotal:         437032 kB\nMemFree:   5 kB\n"),
            ("sys/class/thermal/thermal_zone0/temp", "61224\n"),
            ("sys/bus/platform/drivers/raspberrypi-firmware/bind", ""),
            ("sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled", "50005\n"),
        ]);
        let machine = pi.machine();
        assert_eq!(machine.model.as_deref(), Some("Raspberry Pi Zero 2 W Rev 1.0"));
        assert_eq!(machine.memory_bytes, Some(437_032 * 1024));
        let fitness = pi.fitness();
        assert_eq!(fitness.temperature_celsius, Some(61.224));
        assert_eq!(fitness.strains, [Some(true), Some(false), Some(true), Some(false)], "now, not since the start");
    }

    #[test]
    fn a_kernel_without_the_firmwares_file_still_tells_of_the_supply() {
        for (alarm, low) in [("1\n", true), ("0\n", false)] {
            let (_root, pi) = board(&[
                ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
                ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
                ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", alarm),
            ]);
            assert_eq!(pi.fitness().strains, [Some(low), None, None, None]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let (_root, nothing) = board(&[("proc/meminfo", "garbage"), ("sys/class/thermal/thermal_zone0/temp", "hot")]);
        assert_eq!((nothing.machine().model, nothing.machine().memory_bytes), (None, None));
        assert_eq!(nothing.fitness(), Fitness::default());
        assert!(Board::default().machine().memory_bytes > Some(0), "this machine");
    }
}
