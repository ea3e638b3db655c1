//! Defaults that suit the machine: limits follow its memory, so that a small
//! box starts with what it can hold. A profile is a layer below the
//! configuration file: every key that is set anywhere else wins.

use std::fmt;

use flatframe_shared::budget::Bytes;
use flatframe_shared::config::ConfigError;

use crate::board::Machine;

/// The key that chooses a profile.
pub const KEY: &str = "runtime.profile";
/// The value of [`KEY`] that leaves the choice to the machine's memory.
pub const AUTO: &str = "auto";

/// Defaults for machines of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name, after the memory on the board's label.
    pub name: &'static str,
    /// For machines whose kernel manages less than this, bytes.
    below_bytes: u64,
    values: &'static [(&'static str, i64)],
}

/// From the smallest to the largest. The kernel's share of a label is kept by
/// firmware and graphics: 427 of 512 MiB on a Zero 2 W, 3.7 of 4 GiB on a Pi 4.
const PROFILES: [Profile; 4] = [
    Profile {
        name: "512mb",
        below_bytes: 700 << 20,
        values: &[
            ("limits.max_picture_bytes", 1 << 20),
            ("limits.max_source_width_px", 1280),
            ("limits.max_source_height_px", 720),
            ("limits.max_frame_bytes", 256 << 10),
            ("limits.mailbox_bytes", 512 << 10),
            ("limits.max_in_flight", 2),
        ],
    },
    Profile {
        name: "1gb",
        below_bytes: 1400 << 20,
        values: &[
            ("limits.max_picture_bytes", 1 << 20),
            ("limits.max_frame_bytes", 256 << 10),
            ("limits.mailbox_bytes", 512 << 10),
        ],
    },
    // What config.example.toml shows.
    Profile { name: "2gb", below_bytes: 3 << 30, values: &[] },
    Profile {
        name: "4gb",
        below_bytes: u64::MAX,
        values: &[("limits.max_picture_bytes", 4 << 20), ("limits.max_in_flight", 8), ("runtime.worker_threads", 2)],
    },
];

impl Profile {
    /// The profile named `wanted`; with [`AUTO`] the one for `machine`, the
    /// plain defaults where its memory cannot be read.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn choose(wanted: &str, machine: &Machine) -> Result<Self, ConfigError> {
        let chosen = match (wanted, machine.memory_bytes) {
            (AUTO, Some(bytes)) => PROFILES.into_iter().find(|profile| bytes < profile.below_bytes),
            (AUTO, None) => PROFILES.into_iter().find(|profile| profile.values.is_empty()),
            (name, _) => PROFILES.into_iter().find(|profile| profile.name == name),
        };
        chosen.ok_or_else(|| {
            let names = PROFILES.map(|profile| profile.name).join(", ");
            ConfigError::not_allowed(KEY, wanted, format!("use {AUTO}, {names}"))
        })
    }

    /// Keys with dots, and their values.
    pub fn values(&self) -> &'static [(&'static str, i64)] {
        self.values
    }
}

/// A machine and its profile, as printed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The machine.
    pub machine: Machine,
    /// What its defaults are.
    pub profile: Profile,
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { model, cores, memory_bytes } = &self.machine;
        let memory = memory_bytes.map_or("memory unknown".into(), |bytes| Bytes(bytes).to_string());
        let model = model.as_ref().map_or(String::new(), |model| format!("{model}, "));
        let values: Vec<String> = self.profile.values.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let values = if values.is_empty() { "the documented defaults".into() } else { values.join(", ") };
        writeln!(f, "profile: {} ({model}{cores} cores, {memory}): {values}", self.profile.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(memory_bytes: Option<u64>) -> Machine {
        Machine { model: None, cores: 4, memory_bytes }
    }

    #[test]
    fn memory_chooses_and_a_name_wins() {
        let mib = |mib: u64| machine(Some(mib << 20));
        for (machine, name) in [
            (mib(427), "512mb"),
            (mib(906), "1gb"),
            (mib(1849), "2gb"),
            (mib(3790), "4gb"),
            (mib(24 << 10), "4gb"),
            (machine(None), "2gb"),
        ] {
            assert_eq!(Profile::choose(AUTO, &machine).expect("there is one").name, name, "{machine:?}");
            assert_eq!(Profile::choose("1gb", &machine).expect("there is one").name, "1gb");
        }
        let error = Profile::choose("small", &mib(427)).expect_err("none of that name").to_string();
        assert!(error.contains("runtime.profile = small") && error.contains("auto, 512mb, 1gb, 2gb, 4gb"), "{error}");
    }

    #[test]
    fn it_is_printed_in_one_line() {
        let machine = Machine { model: Some("Raspberry Pi Zero 2 W Rev 1.0".into()), ..machine(Some(427 << 20)) };
        let profile = Profile::choose(AUTO, &machine).expect("there is one");
        let text = Fitted { machine, profile }.to_string();
        assert!(
            text.starts_with("profile: 512mb (Raspberry Pi Zero 2 W Rev 1.0, 4 cores, 427.0 MiB): limits."),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}
