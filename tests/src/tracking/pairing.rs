//! The best one-to-one pairing, for scores; written apart from the tracker's
//! own, so that an error there does not hide itself.
//!
//! Kuhn 1955, "The Hungarian method for the assignment problem", with
//! potentials, rows² × columns steps.

/// Pairs rows with columns so that the sum of gains is greatest; a pair of
/// gain 0 is none. Gains are 0 or more and finite. Returns the column by row.
pub fn best(rows: usize, columns: usize, gain: impl Fn(usize, usize) -> f64) -> Vec<Option<usize>> {
    if rows <= columns {
        return best_of_wide(rows, columns, &gain);
    }
    let mut by_row = vec![None; rows];
    for (column, row) in best_of_wide(columns, rows, &|column, row| gain(row, column)).into_iter().enumerate() {
        if let Some(row) = row {
            by_row[row] = Some(column);
        }
    }
    by_row
}

/// As many columns as rows or more.
fn best_of_wide(rows: usize, columns: usize, gain: &dyn Fn(usize, usize) -> f64) -> Vec<Option<usize>> {
    // Places count from 1; 0 stands for "not yet".
    let (mut u, mut v) = (vec![0.0; rows + 1], vec![0.0; columns + 1]);
    let mut row_of = vec![0; columns + 1];
    for row in 1..=rows {
        let (mut least, mut way, mut used) =
            (vec![f64::INFINITY; columns + 1], vec![0; columns + 1], vec![false; columns + 1]);
        row_of[0] = row;
        let mut at = 0;
        while row_of[at] != 0 {
            used[at] = true;
            let (from, mut delta, mut next) = (row_of[at], f64::INFINITY, 0);
            for column in 1..=columns {
                if used[column] {
                    continue;
                }
                let rest = -gain(from - 1, column - 1) - u[from] - v[column];
                if rest < least[column] {
                    (least[column], way[column]) = (rest, at);
                }
                if least[column] < delta {
                    (delta, next) = (least[column], column);
                }
            }
            for column in 0..=columns {
                if used[column] {
                    u[row_of[column]] += delta;
                    v[column] -= delta;
                } else {
                    least[column] -= delta;
                }
            }
            at = next;
        }
        while at != 0 {
            row_of[at] = row_of[way[at]];
            at = way[at];
        }
    }
    let mut by_row = vec![None; rows];
    for (column, row) in row_of.into_iter().enumerate().skip(1) {
        if row != 0 && gain(row - 1, column - 1) > 0.0 {
            by_row[row - 1] = Some(column - 1);
        }
    }
    by_row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_table() {
        for (gains, expected) in [
            (vec![], vec![]),
            (vec![vec![0.0]], vec![None]),
            (vec![vec![9.0, 10.0], vec![1.0, 8.0]], vec![Some(0), Some(1)]),
            (vec![vec![5.0], vec![7.0], vec![6.0]], vec![None, Some(0), None]),
            (vec![vec![1.0, 3.0, 2.0]], vec![Some(1)]),
        ] {
            let columns = gains.first().map_or(0, Vec::len);
            assert_eq!(best(gains.len(), columns, |row, column| gains[row][column]), expected, "{gains:?}");
        }
    }
}
