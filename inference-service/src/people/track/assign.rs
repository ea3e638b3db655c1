//! The best one-to-one assignment of rows to columns. Exact; knows neither
//! tracks nor faces.
//!
//! Maximises the sum of gains where a row may also stay without a column, by
//! shortest augmenting paths with potentials: Kuhn 1955, "The Hungarian method
//! for the assignment problem", in the form of Jonker and Volgenant 1987, "A
//! shortest augmenting path algorithm for dense and sparse linear assignment
//! problems". Takes at most rows² × (rows + columns) steps.

/// No column, no row.
const NONE: u32 = u32::MAX;

/// The assignment of one frame. Its vectors are kept to reuse the allocation.
#[derive(Debug, Default)]
pub struct Assignment {
    columns: usize,
    /// Gains by row; 0: this pair must not be.
    gains: Vec<f32>,
    column_of_row: Vec<u32>,
    /// By column; after the real ones come as many that stand for "no column",
    /// so that every row finds one.
    row_of_column: Vec<u32>,
    row_price: Vec<f64>,
    column_price: Vec<f64>,
    /// Cheapest known way to a column, and the column before it on that way.
    distance: Vec<f64>,
    before: Vec<u32>,
    reached: Vec<bool>,
}

impl Assignment {
    /// Bound of the heap that `rows` rows and `columns` columns take, bytes. A
    /// vector grows by doubling.
    pub const fn max_bytes(rows: u64, columns: u64) -> u64 {
        let wide = columns.saturating_add(rows);
        let row_bytes = (size_of::<u32>() + size_of::<f64>()) as u64;
        let column_bytes = (2 * size_of::<u32>() + 2 * size_of::<f64>() + size_of::<bool>()) as u64;
        rows.saturating_mul(columns)
            .saturating_mul(size_of::<f32>() as u64)
            .saturating_add(rows.saturating_mul(row_bytes))
            .saturating_add(wide.saturating_mul(column_bytes))
            .saturating_mul(2)
    }

    /// Starts over, with no pair allowed.
    pub fn clear(&mut self, rows: usize, columns: usize) {
        self.columns = columns;
        refill(&mut self.gains, rows * columns, 0.0);
        refill(&mut self.column_of_row, rows, NONE);
    }

    /// Allows a pair. Only a finite gain above 0 is worth having.
    pub fn allow(&mut self, row: usize, column: usize, gain: f32) {
        if gain > 0.0 && gain.is_finite() {
            self.gains[row * self.columns + column] = gain;
        }
    }

    /// Gain of a pair; 0 when it is not allowed.
    pub fn gain(&self, row: usize, column: usize) -> f32 {
        self.gains[row * self.columns + column]
    }

    /// The column of a row, after [`Assignment::solve`].
    pub fn column(&self, row: usize) -> Option<usize> {
        let column = self.column_of_row[row];
        (column != NONE).then_some(column as usize)
    }

    /// Finds the best assignment of the allowed pairs.
    pub fn solve(&mut self) {
        let (rows, columns) = (self.column_of_row.len(), self.columns);
        let wide = columns + rows;
        refill(&mut self.row_of_column, wide, NONE);
        refill(&mut self.row_price, rows, 0.0);
        refill(&mut self.column_price, wide, 0.0);
        for row in 0..rows {
            if self.gains[row * columns..][..columns].iter().any(|gain| *gain > 0.0) {
                self.insert(row);
            }
        }
        for (column, row) in self.row_of_column[..columns].iter().enumerate() {
            if *row != NONE {
                self.column_of_row[*row as usize] = column as u32;
            }
        }
    }

    /// Gives `first` a column and moves earlier rows along the cheapest chain
    /// that ends in a free one.
    fn insert(&mut self, first: usize) {
        let wide = self.row_of_column.len();
        refill(&mut self.distance, wide, f64::INFINITY);
        refill(&mut self.before, wide, NONE);
        refill(&mut self.reached, wide, false);
        let (mut row, mut from, mut walked) = (first, NONE, 0.0);
        let end = loop {
            let gains = &self.gains[row * self.columns..][..self.columns];
            let mut next = (f64::INFINITY, 0);
            for column in 0..wide {
                if self.reached[column] {
                    continue;
                }
                let cost = match gains.get(column) {
                    // Staying without a column costs nothing.
                    None => Some(0.0),
                    Some(gain) => (*gain > 0.0).then_some(-f64::from(*gain)),
                };
                if let Some(cost) = cost {
                    let distance = walked + cost - self.row_price[row] - self.column_price[column];
                    if distance < self.distance[column] {
                        (self.distance[column], self.before[column]) = (distance, from);
                    }
                }
                if self.distance[column] < next.0 {
                    next = (self.distance[column], column);
                }
            }
            // There are as many columns for "none" as rows: one is free.
            walked = next.0;
            self.reached[next.1] = true;
            if self.row_of_column[next.1] == NONE {
                break next.1;
            }
            (row, from) = (self.row_of_column[next.1] as usize, next.1 as u32);
        };
        self.row_price[first] += walked;
        for column in 0..wide {
            if self.reached[column] {
                let rest = walked - self.distance[column];
                self.column_price[column] -= rest;
                if self.row_of_column[column] != NONE {
                    self.row_price[self.row_of_column[column] as usize] += rest;
                }
            }
        }
        let mut column = end;
        while self.before[column] != NONE {
            let earlier = self.before[column] as usize;
            self.row_of_column[column] = self.row_of_column[earlier];
            column = earlier;
        }
        self.row_of_column[column] = first as u32;
    }
}

fn refill<T: Clone>(vector: &mut Vec<T>, len: usize, value: T) {
    vector.clear();
    vector.resize(len, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn solved(gains: &[Vec<f32>]) -> (Vec<Option<usize>>, f64) {
        let columns = gains.first().map_or(0, Vec::len);
        let mut assignment = Assignment::default();
        assignment.clear(gains.len(), columns);
        for (row, gains) in gains.iter().enumerate() {
            for (column, gain) in gains.iter().enumerate() {
                assignment.allow(row, column, *gain);
            }
        }
        assignment.solve();
        let chosen: Vec<_> = (0..gains.len()).map(|row| assignment.column(row)).collect();
        let total = chosen.iter().zip(gains).filter_map(|(column, gains)| Some(f64::from(gains[(*column)?]))).sum();
        (chosen, total)
    }

    fn best_of_all(gains: &[Vec<f32>], taken: u32) -> f64 {
        let Some((first, rest)) = gains.split_first() else { return 0.0 };
        let with = first.iter().enumerate().filter(|(column, gain)| taken & 1 << column == 0 && **gain > 0.0);
        with.map(|(column, gain)| f64::from(*gain) + best_of_all(rest, taken | 1 << column))
            .fold(best_of_all(rest, taken), f64::max)
    }

    #[test]
    fn by_table() {
        for (gains, expected) in [
            (vec![], vec![]),
            (vec![vec![]; 2], vec![None, None]),
            (vec![vec![0.0]], vec![None]),
            (vec![vec![f32::NAN, f32::INFINITY, -1.0]], vec![None]),
            // The greedy choice, 10, would leave the other row with nothing.
            (vec![vec![9.0, 10.0], vec![0.0, 8.0]], vec![Some(0), Some(1)]),
            // One row must stay without: the one that loses least.
            (vec![vec![5.0], vec![7.0], vec![6.0]], vec![None, Some(0), None]),
        ] {
            assert_eq!(solved(&gains).0, expected, "{gains:?}");
        }
    }

    proptest! {
        /// As good as trying everything, and nothing is given away twice.
        #[test]
        fn is_the_best(
            (rows, columns) in (0usize..6, 0usize..6),
            values in prop::collection::vec(prop_oneof![Just(0.0f32), 0.01f32..20.0], 36),
        ) {
            let gains: Vec<Vec<f32>> = (0..rows).map(|row| values[row * 6..][..columns].to_vec()).collect();
            let (chosen, total) = solved(&gains);
            prop_assert!((total - best_of_all(&gains, 0)).abs() < 1e-4);
            let mut columns: Vec<usize> = chosen.iter().flatten().copied().collect();
            columns.sort_unstable();
            prop_assert!(columns.windows(2).all(|pair| pair[0] != pair[1]));
            for (row, column) in chosen.iter().enumerate() {
                prop_assert!(column.is_none_or(|column| gains[row][column] > 0.0));
            }
        }
    }
}
