//! How large the store is on its disk.

use std::path::Path;

use super::lock::beside;

/// Bytes of the store with its log and the log's index.
pub fn store_bytes(file: &Path) -> u64 {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    bytes(file) + bytes(&beside(file, "-wal")) + bytes(&beside(file, "-shm"))
}
