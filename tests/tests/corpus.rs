//! Replays the fuzz corpus and every regression on stable: the same functions
//! as the fuzz targets call, over each file.
//!
//! `UPDATE_GENERATED=1 cargo test --workspace --test corpus` writes the seeds
//! anew.

#[path = "corpus/seeds.rs"]
mod seeds;
#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::time::Instant;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz");

/// Files of `fuzz/{kind}/{target}`; none when the folder is not there.
fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(FUZZ).join(kind).join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn the_corpus_holds() {
    for (target, name, data) in seeds::all() {
        let file = Path::new(FUZZ).join("corpus").join(target).join(&name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::create_dir_all(file.parent().expect("has a folder")).expect("made");
            std::fs::write(&file, data).expect("written");
        }
        // Bytes of pictures may differ between processors.
        assert!(file.is_file(), "{} is missing: run with UPDATE_GENERATED=1", file.display());
    }
    for (target, run) in targets::ALL {
        let corpus = files("corpus", target);
        assert!(corpus.len() >= 3, "{target} has {} seeds", corpus.len());
        for file in corpus.iter().chain(&files("regressions", target)) {
            // Shown when it panics.
            println!("{target}: {}", file.display());
            let data = std::fs::read(file).expect("read");
            run(&data);
            // Beginnings of it cost nothing more and reach other ends.
            for cut in 1..8 {
                run(&data[..data.len() * cut / 8]);
            }
        }
    }
}

/// Changes of the corpus at random, the same in every run: far from what the
/// fuzzer finds, but on stable and in every test run.
/// `FLATFRAME_MUTANTS=100000` makes more of each file.
#[test]
fn changed_inputs_hold() {
    let count = std::env::var("FLATFRAME_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    for (target, run) in targets::ALL {
        let start = Instant::now();
        let corpus: Vec<_> = files("corpus", target).iter().map(|file| std::fs::read(file).expect("read")).collect();
        for (file, data) in corpus.iter().enumerate() {
            for mutant in 0..count {
                let mut random = Random(1 + mutant * 1000 + file as u64);
                let other = &corpus[random.below(corpus.len())];
                let changed = random.changed(data, other);
                // What fails can be made again from what is shown.
                let ran = std::panic::catch_unwind(|| run(&changed));
                assert!(ran.is_ok(), "{target}: seed {file}, mutant {mutant}: {changed:?}");
            }
        }
        println!("{target}: {} inputs in {:.1?}", count * corpus.len() as u64, start.elapsed());
    }
}

/// Numbers that look random (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }

    /// `data` with some bytes changed, cut out, said twice or taken from `other`.
    fn changed(&mut self, data: &[u8], other: &[u8]) -> Vec<u8> {
        const TELLING: [u8; 8] = [0, 1, 0x7F, 0x80, 0xFF, 0xD8, 0xD9, b'\n'];
        let mut data = data.to_vec();
        for _ in 0..=self.below(6) {
            let (from, length) = (self.below(data.len()), 1 + self.below(16));
            let to = (from + length).min(data.len());
            match self.below(5) {
                0 if !data.is_empty() => data[from] ^= 1 << self.below(8),
                1 if !data.is_empty() => data[from] = TELLING[self.below(TELLING.len())],
                2 => drop(data.drain(from..to)),
                3 => {
                    let twice = data[from..to].to_vec();
                    data.splice(from..from, twice);
                }
                _ => {
                    let at = self.below(other.len());
                    data.splice(from..to, other[at..(at + length).min(other.len())].iter().copied());
                }
            }
        }
        data
    }
}

/// A folder that no target has would never be replayed.
#[test]
fn every_folder_belongs_to_a_target() {
    for kind in ["corpus", "regressions"] {
        for folder in files(kind, "") {
            let name = folder.file_name().and_then(|name| name.to_str()).expect("a plain name");
            assert!(targets::ALL.iter().any(|(target, _)| *target == name), "{}", folder.display());
        }
    }
}
