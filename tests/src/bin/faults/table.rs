//! What a row measured, and how it is printed. Judges by limits that are
//! stated here; measures nothing.

use serde_json::{Value, json};

/// How a row ended.
pub enum Ended {
    /// It was measured.
    Measured(Measured),
    /// It could not be run here, and why.
    Skipped(String),
    /// The row itself did not come to its end, and why; counts as a failure.
    Broken(String),
}

/// Most that resident memory may have grown, in bytes. What a process allocates
/// when it meets a fault for the first time stays with it: at most 1.5 MiB in
/// any row when this was written. A leak of 512 bytes for each call of the
/// storm, or of 8 KiB for each frame of a fault of 10 s, is more than this;
/// smaller ones are the soak's to find.
pub const MOST_RSS_GROWTH: i64 = 2 << 20;
/// Least share of its former rate at which a camera counts as unaffected:
/// stalled would be 0, and a busy machine takes some.
pub const LEAST_SHARE: f64 = 0.7;
/// Longest recovery, in seconds.
pub const RECOVERY_S: f64 = 10.0;

/// Growth of one process over the fault.
#[derive(Debug, Clone)]
pub struct Growth {
    /// Which process.
    pub name: String,
    /// Resident memory, in bytes.
    pub rss_bytes: i64,
    /// Highest resident memory of its life, in bytes.
    pub rss_peak_bytes: u64,
    /// Its computed bound, in bytes.
    pub budget_bytes: u64,
    /// Open files.
    pub files: i64,
    /// Threads.
    pub threads: i64,
    /// Threads that its runtime had not started before, and may: for what
    /// blocks, such as reading files.
    pub spare_threads: i64,
}

impl Growth {
    fn good(&self) -> bool {
        self.rss_bytes < MOST_RSS_GROWTH
            && self.rss_peak_bytes <= self.budget_bytes
            && self.files <= 0
            && self.threads <= self.spare_threads
    }
}

/// What a row measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Imbalance of each process's ledger, in frames.
    pub balances: Vec<(String, i64)>,
    /// Processes that did not end in order, with how they ended. Their exit
    /// code says whether their last counts balanced.
    pub bad_ends: Vec<String>,
    /// Memory, files, threads.
    pub growths: Vec<Growth>,
    /// Analysed rate of the camera beside, during the fault over before;
    /// `None` where the fault hits everyone.
    pub beside: Option<f64>,
    /// Captured rate of the camera that is hit, during the fault over before;
    /// judged where the fault is not its own and nobody is beside it.
    pub captured: f64,
    /// Analysed rate of the camera that is hit, during the fault over before.
    pub hit: f64,
    /// From the fault's end until the camera that was hit is analysed at its
    /// former rate again, in seconds; `None`: not within the limit.
    pub recovery_s: Option<f64>,
    /// What else was seen, for a person.
    pub note: String,
}

impl Measured {
    fn ledger_good(&self) -> bool {
        self.bad_ends.is_empty() && self.balances.iter().all(|(_, balance)| *balance == 0)
    }

    fn memory_good(&self) -> bool {
        self.growths.iter().all(Growth::good)
    }

    fn others_good(&self) -> bool {
        self.beside.unwrap_or(self.captured) >= LEAST_SHARE
    }

    fn recovery_good(&self) -> bool {
        self.recovery_s.is_some_and(|seconds| seconds < RECOVERY_S)
    }

    /// Whether every promise was kept.
    pub fn good(&self) -> bool {
        self.ledger_good() && self.memory_good() && self.others_good() && self.recovery_good()
    }

    fn cells(&self) -> [String; 4] {
        let ledger = match (&self.bad_ends[..], self.balances.iter().find(|(_, balance)| *balance != 0)) {
            ([], None) => "0".to_owned(),
            (_, Some((name, balance))) => format!("{name} {balance:+}"),
            (ends, None) => ends.join(", "),
        };
        let each = |text: fn(&Growth) -> String| self.growths.iter().map(text).collect::<Vec<_>>().join(" ");
        let memory = format!(
            "{} KiB, files {}, threads {}",
            each(|growth| format!("{:+}", growth.rss_bytes / 1024)),
            each(|growth| format!("{:+}", growth.files)),
            each(|growth| format!("{:+}", growth.threads)),
        );
        let others = match self.beside {
            Some(share) => percent(share),
            None => format!("n/a, captured {}", percent(self.captured)),
        };
        let recovery = match self.recovery_s {
            Some(seconds) => format!("{seconds:.1} s"),
            None => "not seen".into(),
        };
        let marked = |good: bool, text: String| format!("{} {text}", if good { "ok" } else { "FAIL" });
        [
            marked(self.ledger_good(), ledger),
            marked(self.memory_good(), memory),
            marked(self.others_good(), others),
            marked(self.recovery_good(), recovery),
        ]
    }

    fn json(&self) -> Value {
        let growths: Vec<Value> = self
            .growths
            .iter()
            .map(|growth| {
                json!({
                    "process": growth.name, "rss_growth_bytes": growth.rss_bytes, "fd_growth": growth.files,
                    "thread_growth": growth.threads, "spare_threads": growth.spare_threads, "rss_peak_bytes": growth.rss_peak_bytes,
                    "budget_bytes": growth.budget_bytes, "ok": growth.good(),
                })
            })
            .collect();
        let balances: Vec<Value> =
            self.balances.iter().map(|(name, balance)| json!({"process": name, "ledger_balance": balance})).collect();
        json!({
            "ok": self.good(),
            "ledger_ok": self.ledger_good(), "ledgers": balances, "bad_ends": self.bad_ends,
            "memory_ok": self.memory_good(), "processes": growths,
            "others_ok": self.others_good(), "beside_share": self.beside, "captured_share": self.captured,
            "hit_share": self.hit,
            "recovery_ok": self.recovery_good(), "recovery_s": self.recovery_s,
            "note": self.note,
        })
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// One line as soon as a row is over.
pub fn print_row(name: &str, end: &Ended) {
    match end {
        Ended::Measured(measured) => {
            let verdict = if measured.good() { "ok" } else { "FAIL" };
            println!("{name}: {verdict}: {} | {}", measured.cells().join(" | "), measured.note);
        }
        Ended::Skipped(why) => println!("{name}: skipped: {why}"),
        Ended::Broken(why) => println!("{name}: FAIL: {why}"),
    }
}

/// All rows, as a Markdown table. Where two figures stand, the server's is the
/// first and the sender's the second.
pub fn print_table(ended: &[(&str, Ended)]) {
    println!(
        "\n| fault | ledgers balance | resident memory, files, threads | others | recovery | camera hit, meanwhile |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, end) in ended {
        match end {
            Ended::Measured(measured) => {
                println!("| {name} | {} | {} |", measured.cells().join(" | "), percent(measured.hit));
            }
            Ended::Skipped(why) => println!("| {name} | skipped: {why} | | | | |"),
            Ended::Broken(why) => println!("| {name} | FAIL: {why} | | | | |"),
        }
    }
    let count = |is: fn(&Ended) -> bool| ended.iter().filter(|(_, end)| is(end)).count();
    println!(
        "\n{} rows: {} ok, {} failed, {} skipped",
        ended.len(),
        count(|end| matches!(end, Ended::Measured(measured) if measured.good())),
        count(|end| match end {
            Ended::Measured(measured) => !measured.good(),
            Ended::Broken(_) => true,
            Ended::Skipped(_) => false,
        }),
        count(|end| matches!(end, Ended::Skipped(_))),
    );
}

/// All rows, as one JSON object on one line.
pub fn print_json(ended: &[(&str, Ended)]) {
    let rows: serde_json::Map<String, Value> = ended
        .iter()
        .map(|(name, end)| {
            let value = match end {
                Ended::Measured(measured) => measured.json(),
                Ended::Skipped(why) => json!({"skipped": why}),
                Ended::Broken(why) => json!({"ok": false, "broken": why}),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    println!("{}", Value::Object(rows));
}
