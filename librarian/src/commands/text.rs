//! What commands print for people: columns and sizes.

/// A table as lines: every column as wide as its widest cell, two spaces between columns.
pub(super) fn columns<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Vec<String> {
    let mut table = vec![head.map(str::to_owned)];
    table.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| table.iter().map(|row| row[column].len()).max().unwrap_or_default());
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

/// A count of octets for people.
pub(super) fn octets(octets: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = octets as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{octets} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_a_word() {
        let rows = [["s1", "serving", "1"], ["server10", "free", ""]].map(|row| row.map(str::to_owned));
        let lines = columns(["SERVER", "ROLE", "RELEASE"], rows);
        assert_eq!(
            lines,
            ["SERVER    ROLE     RELEASE", "s1        serving  1", "server10  free",]
        );
        assert_eq!(columns(["A", "B"], []), ["A  B"]);
    }

    #[test]
    fn octets_are_told_with_a_unit() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(octets(count), text);
        }
    }
}
