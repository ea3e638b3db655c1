//! The computed bound of a service's memory, part by part, and the places
//! where data can wait. Computes and shows; the owner of each part enforces it.

use std::fmt;
use std::sync::Arc;

/// One part of the bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How it was worked out, for a person.
    pub formula: String,
    /// Its bound, bytes.
    pub bytes: u64,
    /// The configuration key that lowers it, if one does.
    pub key: Option<&'static str>,
}

/// The computed bound of resident memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budget {
    parts: Vec<Part>,
}

/// A configuration that does not fit into the memory it is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the configuration may need {} but the memory limit is {}: lower {key} (its part is {}: {formula}) or raise the limit",
    Bytes(*budget_bytes), Bytes(*limit_bytes), Bytes(*part_bytes)
)]
pub struct DoesNotFit {
    /// The computed bound.
    pub budget_bytes: u64,
    /// The limit it was compared with.
    pub limit_bytes: u64,
    /// The key of the largest part that a key can lower.
    pub key: &'static str,
    /// Bound of that part.
    pub part_bytes: u64,
    /// How that part was worked out.
    pub formula: String,
}

impl Budget {
    /// Adds a part.
    pub fn add(&mut self, name: &'static str, bytes: u64, key: Option<&'static str>, formula: String) {
        self.parts.push(Part { name, formula, bytes, key });
    }

    /// All parts, in the order they were added.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The bound: the sum of all parts, bytes.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Compares the bound with a limit.
    ///
    /// # Errors
    /// [`DoesNotFit`], naming the key to lower.
    pub fn check(&self, limit_bytes: u64) -> Result<(), DoesNotFit> {
        let budget_bytes = self.total_bytes();
        if budget_bytes <= limit_bytes {
            return Ok(());
        }
        let largest = self.parts.iter().filter(|part| part.key.is_some()).max_by_key(|part| part.bytes);
        Err(DoesNotFit {
            budget_bytes,
            limit_bytes,
            key: largest.and_then(|part| part.key).unwrap_or("nothing: no key lowers it"),
            part_bytes: largest.map_or(0, |part| part.bytes),
            formula: largest.map(|part| part.formula.clone()).unwrap_or_default(),
        })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory budget: {}", Bytes(self.total_bytes()))?;
        for part in &self.parts {
            writeln!(f, "  {:>10}  {:<20} {}", Bytes(part.bytes).to_string(), part.name, part.formula)?;
        }
        Ok(())
    }
}

/// Shows a number of bytes in the largest unit that keeps it above 1.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..0x400 => write!(f, "{} B", self.0),
            0x400..0x10_0000 => write!(f, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes / 1048576.0),
            _ => write!(f, "{:.2} GiB", bytes / 1073741824.0),
        }
    }
}

/// A place where data can wait: what it holds and may hold, read live.
#[derive(Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// The most it may hold, items.
    pub cap: u64,
    live: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Place {
    /// A place named `name` that holds `live()` of at most `cap` items.
    pub fn new(name: impl Into<String>, cap: u64, live: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { name: name.into(), cap, live: Arc::new(live) }
    }

    /// What it holds now, items.
    pub fn live(&self) -> u64 {
        (self.live)()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}/{}", self.name, self.live(), self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let mut budget = Budget::default();
        budget.add("baseline", 20 << 20, None, "measured".into());
        budget.add("frames", 32 << 20, Some("limits.max_streams"), "64 streams x 2 x 256 KiB".into());
        budget
    }

    #[test]
    fn a_limit_below_the_bound_names_the_key() {
        assert_eq!(budget().check(64 << 20), Ok(()));
        let text = budget().check(48 << 20).expect_err("too small").to_string();
        for part in ["52.0 MiB", "48.0 MiB", "limits.max_streams", "64 streams"] {
            assert!(text.contains(part), "{part} missing in: {text}");
        }
    }

    #[test]
    fn printed_part_by_part() {
        let text = budget().to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("20.0 MiB") && text.contains("measured"), "{text}");
    }
}
