//! Finds results page by page, without the tree that leads to them: one lost
//! page near the root of it would else lose millions. Follows the file format
//! (sqlite.org/fileformat2.html, 1.6 and 2.1). Trusts no byte that it reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::schema::PAGE_BYTES;

/// First byte of a leaf of a table.
const LEAF: u8 = 0x0D;
/// Bytes of a leaf's header; the cells' places follow.
const HEADER_BYTES: usize = 8;

/// One row of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its key.
    pub key: i64,
    /// Its position.
    pub position: i64,
    /// Its body.
    pub body: &'a [u8],
}

/// Calls `row` with every result in a file, in no order. Those with a body of
/// more than a page are left out.
pub fn results<E: From<io::Error>>(file: &Path, mut row: impl FnMut(Row<'_>) -> Result<(), E>) -> Result<(), E> {
    let file = File::open(file)?;
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let mut page = vec![0; PAGE_BYTES as usize];
    // The first page is never a leaf with results.
    for number in 1..pages {
        file.read_exact_at(&mut page, number * PAGE_BYTES)?;
        let cells = page.get(3..5).map_or(0, |count| usize::from(count[0]) << 8 | usize::from(count[1]));
        if page[0] != LEAF || HEADER_BYTES + 2 * cells > page.len() {
            continue;
        }
        for cell in 0..cells {
            let place = HEADER_BYTES + 2 * cell;
            let start = usize::from(page[place]) << 8 | usize::from(page[place + 1]);
            if let Some(found) = page.get(start..).and_then(parse) {
                row(found)?;
            }
        }
    }
    Ok(())
}

/// A cell: length of its record, key, record. The record: length of its
/// header, a type for each column, the columns. Ours are key (in the cell,
/// so NULL here), an integer and a blob; no other table has those.
fn parse(cell: &[u8]) -> Option<Row<'_>> {
    let (bytes, cell) = varint(cell)?;
    let (key, cell) = varint(cell)?;
    let record = cell.get(..usize::try_from(bytes).ok()?)?;
    let (header_bytes, _) = varint(record)?;
    let (header, columns) = record.split_at_checked(usize::try_from(header_bytes).ok()?)?;
    let (_, types) = varint(header)?;
    let (null, types) = varint(types)?;
    let (integer, types) = varint(types)?;
    let (blob, types) = varint(types)?;
    if null != 0 || blob < 12 || blob % 2 != 0 || !types.is_empty() || key < 0 {
        return None;
    }
    let bytes = match integer {
        1..=4 => integer as usize,
        5 => 6,
        6 => 8,
        8 | 9 => 0,
        _ => return None,
    };
    let (integer_bytes, body) = columns.split_at_checked(bytes)?;
    let sign = integer_bytes.first().map_or(0, |first| if first & 0x80 == 0 { 0 } else { -1 });
    let position = integer_bytes.iter().fold(sign, |number: i64, byte| number << 8 | i64::from(*byte));
    let position = if integer == 9 { 1 } else { position };
    (body.len() as i64 == (blob - 12) / 2).then_some(Row { key, position, body })
}

/// A number of 1 to 9 bytes, 7 bits in each but the ninth.
fn varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut number = 0_i64;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        if place == 8 {
            return Some((number << 8 | i64::from(*byte), &bytes[9..]));
        }
        number = number << 7 | i64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn what_sqlite_wrote_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("f");
        let connection = rusqlite::Connection::open(&file).expect("opens");
        connection.execute_batch(super::super::super::schema::OBJECTS[5].1).expect("made");
        let mut wanted = Vec::new();
        for (key, position) in
            [0, 1, 2, 127, 128, -1, -300, 1 << 20, 1 << 40, i64::MAX, i64::MIN].into_iter().enumerate()
        {
            let (key, body) = ((key as i64) << 58 | key as i64, vec![key as u8; key * 30]);
            connection
                .execute("INSERT INTO results VALUES(?, ?, ?)", rusqlite::params![key & i64::MAX, position, body])
                .expect("written");
            wanted.push((key & i64::MAX, position, body));
        }
        drop(connection);
        let mut found = Vec::new();
        results::<io::Error>(&file, |row| {
            found.push((row.key, row.position, row.body.to_vec()));
            Ok(())
        })
        .expect("read");
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}
