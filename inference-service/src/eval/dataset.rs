//! The folder of pictures: `manifest.csv` with one line for each picture.
//!
//! Columns, of which only `path` must be there: `path` (below the folder),
//! `split`, `gender` (`F`, `M` or empty), `boxes` (`x y w h` in pixels of the
//! stored picture, separated by `;`), `box_source` (empty beside empty boxes:
//! nobody looked for faces). Others are not read. Opens no picture.

use std::path::{Component, Path, PathBuf};

use csv::{ReaderBuilder, StringRecord};

use crate::vision::{Bounds, Gender};

/// Largest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// The split that is for measuring.
const EVAL: &str = "eval";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The manifest cannot be read.
    #[error("{} could not be read: {error}; --data names a folder with manifest.csv and its pictures", path.display())]
    Unreadable {
        /// The manifest.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The manifest as a whole is wrong.
    #[error("{}: {reason}", path.display())]
    Whole {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One of its lines is wrong.
    #[error("{}, line {line}, column {column}: {reason}", path.display())]
    Line {
        /// The manifest.
        path: PathBuf,
        /// Counted from 1, the head included.
        line: u64,
        /// Name of the column.
        column: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// One picture and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its file.
    pub picture: PathBuf,
    /// Labelled gender, never `Unknown`.
    pub gender: Option<Gender>,
    /// Labelled faces; `None` when nobody looked for faces.
    pub boxes: Option<Vec<Bounds>>,
}

/// The pictures to judge on.
#[derive(Debug)]
pub struct Dataset {
    /// At least one.
    pub rows: Vec<Row>,
    is_split: bool,
    all: usize,
    by_machine: usize,
}

impl Dataset {
    /// Reads the manifest of a folder. Takes the rows of the split `eval` if
    /// there are any, otherwise all.
    ///
    /// # Errors
    /// [`DatasetError`], naming file, line and column.
    pub fn read(folder: &Path) -> Result<Self, DatasetError> {
        let path = folder.join("manifest.csv");
        let unreadable = |error| DatasetError::Unreadable { path: path.clone(), error };
        let found = std::fs::metadata(&path).map_err(unreadable)?;
        if !found.is_file() || found.len() > MAX_MANIFEST_BYTES {
            let reason = format!("is not a file of at most {MAX_MANIFEST_BYTES} bytes");
            return Err(DatasetError::Whole { path, reason });
        }
        Self::parse(&std::fs::read(&path).map_err(unreadable)?, folder, &path)
    }

    fn parse(text: &[u8], folder: &Path, path: &Path) -> Result<Self, DatasetError> {
        let whole = |reason: String| DatasetError::Whole { path: path.into(), reason };
        let mut reader = ReaderBuilder::new().from_reader(text);
        let head = reader.headers().map_err(|error| whole(error.to_string()))?.clone();
        let columns = Columns::find(&head).map_err(whole)?;
        let mut lines = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| whole(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let parsed = columns.parse(&record, folder).map_err(|(column, reason)| DatasetError::Line {
                path: path.into(),
                line,
                column,
                reason,
            })?;
            lines.push(parsed);
        }
        let all = lines.len();
        let is_split = lines.iter().any(|line| line.is_eval);
        lines.retain(|line| line.is_eval || !is_split);
        if lines.is_empty() {
            return Err(whole("names no picture".into()));
        }
        let by_machine = lines.iter().filter(|line| line.by_machine).count();
        Ok(Self { rows: lines.into_iter().map(|line| line.row).collect(), is_split, all, by_machine })
    }

    /// Which rows were taken, for a person.
    pub fn chosen(&self) -> String {
        let rows = self.rows.len();
        let split = match self.is_split {
            true => format!("{rows} of {}, split {EVAL:?}", self.all),
            false => format!("all {rows}, there is no split {EVAL:?}"),
        };
        match self.by_machine {
            0 => split,
            boxes => format!("{split}; the boxes of {boxes} were drawn by another detector, not by a person"),
        }
    }
}

/// A line of the manifest.
struct Line {
    row: Row,
    is_eval: bool,
    by_machine: bool,
}

/// Where the columns are.
struct Columns {
    path: usize,
    split: Option<usize>,
    gender: Option<usize>,
    boxes: Option<usize>,
    box_source: Option<usize>,
}

impl Columns {
    fn find(head: &StringRecord) -> Result<Self, String> {
        let of = |name: &str| head.iter().position(|column| column == name);
        let path = of("path").ok_or("the first line names no column path")?;
        let found =
            Self { path, split: of("split"), gender: of("gender"), boxes: of("boxes"), box_source: of("box_source") };
        if found.gender.is_none() && found.boxes.is_none() {
            return Err("the first line names neither a column gender nor a column boxes".into());
        }
        Ok(found)
    }

    fn parse(&self, record: &StringRecord, folder: &Path) -> Result<Line, (&'static str, String)> {
        let text = |column: Option<usize>| column.and_then(|at| record.get(at)).unwrap_or("").trim();
        let source = text(self.box_source);
        let boxes = parse_boxes(text(self.boxes)).map_err(|reason| ("boxes", reason))?;
        Ok(Line {
            is_eval: text(self.split) == EVAL,
            by_machine: source == "teacher",
            row: Row {
                picture: folder.join(parse_path(text(Some(self.path))).map_err(|reason| ("path", reason))?),
                gender: parse_gender(text(self.gender)).map_err(|reason| ("gender", reason))?,
                boxes: (!boxes.is_empty() || !source.is_empty()).then_some(boxes),
            },
        })
    }
}

fn parse_path(text: &str) -> Result<&Path, String> {
    let path = Path::new(text);
    let is_below = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    match !text.is_empty() && path.components().all(is_below) {
        true => Ok(path),
        false => Err(format!("{text:?} does not name a file below the folder")),
    }
}

fn parse_gender(text: &str) -> Result<Option<Gender>, String> {
    match text {
        "" => Ok(None),
        "F" => Ok(Some(Gender::Female)),
        "M" => Ok(Some(Gender::Male)),
        _ => Err(format!("{text:?} is neither F nor M nor empty")),
    }
}

fn parse_boxes(text: &str) -> Result<Vec<Bounds>, String> {
    text.split(';').map(str::trim).filter(|text| !text.is_empty()).map(parse_box).collect()
}

fn parse_box(text: &str) -> Result<Bounds, String> {
    let numbers: Option<Vec<f32>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[x, y, width, height])
            if [x, y, width, height].iter().all(|number| number.is_finite()) && width > 0.0 && height > 0.0 =>
        {
            Ok(Bounds { x, y, width, height })
        }
        _ => Err(format!("{text:?} is not \"x y w h\" in pixels, w and h above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Dataset, String> {
        Dataset::parse(text.as_bytes(), Path::new("set"), Path::new("set/manifest.csv")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_line_with_all_columns() {
        let set = parse(
            "\u{feff}path,split,gender,age,identity,boxes,box_source,licence,source\n\
             images/a.jpg,eval,F,30,x,1 2 3 4;5.5 6 7 8,human,\"CC BY, 4.0\",\"two\nlines\"\n",
        )
        .expect("is valid");
        let bounds = |x, y, width, height| Bounds { x, y, width, height };
        let boxes = Some(vec![bounds(1.0, 2.0, 3.0, 4.0), bounds(5.5, 6.0, 7.0, 8.0)]);
        let picture = PathBuf::from("set/images/a.jpg");
        assert_eq!(set.rows, [Row { picture, gender: Some(Gender::Female), boxes }]);
    }

    #[test]
    fn unlabelled_is_not_no_face() {
        let set = parse("path,gender,boxes,box_source\na,,,\nb,M,,human\nc,,1 2 3 4,\n").expect("is valid");
        let boxes: Vec<_> = set.rows.iter().map(|row| row.boxes.as_ref().map(Vec::len)).collect();
        assert_eq!(boxes, [None, Some(0), Some(1)]);
    }

    #[test]
    fn eval_rows_come_before_all() {
        let split = parse("path,split,gender\na,train,F\nb,eval,F\nc,val,M\n").expect("is valid");
        assert_eq!(split.rows.len(), 1);
        assert_eq!(split.chosen(), "1 of 3, split \"eval\"");
        let all = parse("path,split,gender\na,train,F\nc,val,M\n").expect("is valid");
        assert_eq!(all.rows.len(), 2);
        assert!(all.chosen().starts_with("all 2"), "{}", all.chosen());
        let own = parse("path,boxes,box_source\na,1 1 1 1,teacher\nb,1 1 1 1,human\n").expect("is valid");
        assert!(own.chosen().contains("boxes of 1 were drawn by another detector"), "{}", own.chosen());
    }

    #[test]
    fn wrong_lines_name_file_line_and_column() {
        let line = |row: &str| format!("path,gender,boxes\nfine.jpg,F,\n\"fine,2.jpg\",,1 2 3 4\n{row}\n");
        for (text, says) in [
            (line("a,X,"), "set/manifest.csv, line 4, column gender: \"X\""),
            (line("a,,1 2 3"), "line 4, column boxes: \"1 2 3\""),
            (line("a,,1 2 3 4;1 2 3 x"), "line 4, column boxes: \"1 2 3 x\""),
            (line("a,,1 2 0 4"), "line 4, column boxes"),
            (line("a,,1 2 nan 4"), "line 4, column boxes"),
            (line("../a,,"), "line 4, column path: \"../a\""),
            (line("/etc/a,,"), "line 4, column path"),
            (line(",F,"), "line 4, column path"),
            (line("a,F"), "line: 4"),
            ("file,gender\na,F\n".into(), "column path"),
            ("path,age\na,3\n".into(), "neither a column gender"),
            ("path,gender\n".into(), "names no picture"),
            (String::new(), "column path"),
        ] {
            let error = parse(&text).expect_err(says);
            assert!(error.contains(says) && error.contains("set/manifest.csv"), "{error}: {says}");
        }
    }
}
