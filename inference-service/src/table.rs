//! Tables for terminals.

use std::io::Write;

/// Columns as wide as their widest cell, two spaces between. What would move
/// the cursor or colour the terminal is shown as a replacement character: cells
/// may hold what a camera says of itself.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_table<const N: usize>(rows: &[[String; N]], out: &mut dyn Write) -> std::io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", printable(cell)));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// `text` without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_say_nothing_to_the_terminal() {
        let rows = [["A", "B"], ["long", "\x1b[2J"], ["ü", ""]].map(|row| row.map(String::from));
        let mut out = Vec::new();
        write_table(&rows, &mut out).expect("a vector takes all");
        assert_eq!(String::from_utf8(out).expect("text"), "A     B\nlong  \u{fffd}[2J\nü\n");
    }
}
